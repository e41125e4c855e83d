"""Train one model and record it in MLflow. The defaults are the seed's setting: U-Net, 256×256×3, Adam, batch 10.

    python -m experiments.train --data FOLDER --loss dice --filters 16

The run holds the parameters, the metrics of each epoch, learning curves, panels of validation images and model.keras.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments import datasets, entry
from experiments.executors.local import LocalExecutor
from experiments.jobs import Job
from experiments.one_job import run_job
from experiments.options import FIELDS, parser, train_config
from experiments.progress import Progress
from experiments.run_report import publish_epoch, publish_training
from experiments.tracking import Tracker
from seg.training.result import EpochReport


def build_parser() -> argparse.ArgumentParser:
    return parser("train", __doc__, [*datasets.OPTIONS, *FIELDS])


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    config = train_config(values)
    tracker = Tracker(launch.tracking_uri, None)
    manifest = datasets.prepare(values, config.image_size)

    datasets.check_batch(manifest, config)
    run_id = tracker.start_run(f"{config.loss} f{config.filters}", config.as_dict(), manifest, adopt=launch.run_id)
    tracker.watch_system(run_id)
    progress = Progress()
    progress.study(trials=1, finished=0, base=config, best=None)
    folder = Path(values.workspace).absolute() / "runs" / run_id
    job = Job(
        name="training",
        task="train",
        folder=str(folder),
        arguments={"config": config.as_dict(), "dataset": str(manifest.folder.absolute())},
    )

    def on_epoch(report: EpochReport) -> None:
        publish_epoch(tracker, run_id, folder, report)
        progress.epoch(0, report)

    with tracker.ending(run_id), LocalExecutor(1) as executor:
        progress.trial_started(0, config)
        try:
            result = run_job(executor, job, on_epoch)
        finally:
            progress.close()
        publish_training(tracker, run_id, folder, result)
    print(f"val_dice {result['val_dice']:.3f} in epoch {result['best_epoch']}")
    print(f"run {run_id}; browse: {tracker.where_to_browse(run_id)}")
    return 0


if __name__ == "__main__":
    entry.run(main)
