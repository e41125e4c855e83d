"""Train one model and record it in MLflow. The defaults are the seed's setting: U-Net, 256×256×3, Adam, batch 10.

    python -m experiments.train --data FOLDER --loss dice --filters 16

The run holds the parameters, the metrics of each epoch, learning curves, panels of validation images and model.keras.
"""

import argparse
from collections.abc import Sequence

from experiments.command_line import datasets, entry
from experiments.command_line.options import FIELDS, parser, train_config
from experiments.executors.local import LocalExecutor
from experiments.tracking.tracker import Tracker
from experiments.tracking.training_run import run_folder, train_in_run


def build_parser() -> argparse.ArgumentParser:
    return parser("train", __doc__, [*datasets.OPTIONS, *FIELDS])


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    config = train_config(values)
    tracker = Tracker(launch.tracking_uri, None, values.workspace, "train")
    manifest = datasets.prepare(values, config.image_size)

    datasets.check_batch(manifest, config)
    run_id = tracker.start_run(f"{config.loss} f{config.filters}", config.as_dict(), manifest, adopt=launch.run_id)
    with tracker, tracker.ending(run_id), LocalExecutor(1) as executor:
        result = train_in_run(run_id, config, manifest, run_folder(values.workspace, run_id), tracker, executor)
    print(f"val_dice {result['val_dice']:.3f} in epoch {result['best_epoch']}")
    print(f"run {run_id}; browse: {tracker.where_to_browse(run_id)}")
    return entry.done(tracker)


if __name__ == "__main__":
    entry.run(main)
