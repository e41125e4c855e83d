"""Score a model on a split: Dice and its companions with 95 % intervals, beside the scores of what learned nothing.

    python -m experiments.evaluate --data FOLDER --model models:/seg-unet@champion --split test

The names are those of docs/protocol.md. A registered model is scored at its own threshold; for the model of a run, the
threshold is tuned on the validation split first. The run holds the scores, a table of every image, and panels.

The images are divided as they were for the run that trained the model, unless dataset_split and the options of groups
say otherwise. Of several classes there is no threshold: the class with the highest probability wins.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.command_line import datasets, entry
from experiments.command_line.options import AUTO, OPTIONS, Option, parser
from experiments.executors.local import LocalExecutor
from experiments.jobs.one_job import evaluate
from experiments.registry.models import fetch_model
from experiments.studies.final_test import score_metrics
from experiments.tracking.tracker import Tracker
from experiments.tracking.trained_division import trained_division
from seg.data.classes import BINARY

OVERRIDES = {
    "split": Option(type=str, default="test", choices=("train", "val", "test"), help="images to score"),
    "classes": replace(
        OPTIONS["classes"], default=AUTO, help="classes of the mask, as in the other entry points; auto: the model's"
    ),
}


def build_parser() -> argparse.ArgumentParser:
    names = ["dataset_split" if name == "split" else name for name in datasets.OPTIONS]
    return parser("evaluate", __doc__, [*names, "model", "split", "threshold", "tta", "largest_component"], **OVERRIDES)


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    tracker = Tracker(launch.tracking_uri, None)
    with tempfile.TemporaryDirectory() as scratch, LocalExecutor(1) as executor:
        model = fetch_model(values.model, tracker, Path(scratch) / "model")
        if values.dataset_split == AUTO:
            division = trained_division(values, model, tracker)
        else:
            division = datasets.given_division(values, values.dataset_split)
        if values.classes == AUTO:
            values.classes = ",".join(model.classes) if len(model.classes) > 1 else BINARY
        manifest = datasets.prepare(values, model.image_size, division)
        model.check_classes(manifest)
        tta = model.tta if values.tta == AUTO else values.tta
        largest = model.largest_component if values.largest_component == AUTO else values.largest_component
        asked = {"model": values.model, "split": values.split, "threshold": values.threshold or "tuned", "tta": tta}
        asked["largest_component"] = largest
        run_id = tracker.start_run(f"evaluate {values.split}", asked, manifest, adopt=launch.run_id)
        with tracker.ending(run_id):
            folder = Path(values.workspace).absolute() / "runs" / run_id  # stays: an error names the log in it
            # A threshold holds for what it was tuned with.
            same = (tta, largest) == (model.tta, model.largest_component)
            threshold = values.threshold or (model.threshold if same else None)
            found = evaluate(executor, folder, model.file, manifest, values.split, threshold, tta, largest)
            tracker.log_metrics(run_id, score_metrics(found, values.split))
            tracker.log_folder(run_id, folder)
    print(table(found, values.split))
    print(f"run {run_id}; browse: {tracker.where_to_browse(run_id)}")
    return 0


def table(evaluation: Mapping[str, Any], split: str) -> str:
    """The scores, for people."""
    decided = "highest class" if evaluation["threshold"] is None else f"threshold {evaluation['threshold']:.2f}"
    lines = [f"{evaluation['examples']} images of {split}, {decided}"]
    for name, interval in evaluation["scores"].items():
        lines.append(f"  {name:20} {interval['mean']:.3f}  (95 %: {interval['low']:.3f} to {interval['high']:.3f})")
    lines.append("beside what learned nothing:")
    lines += [f"  {name:20} {score:.3f}" for name, score in evaluation["baselines"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    entry.run(main)
