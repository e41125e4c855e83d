"""A workspace of a study that nobody trained, for the tests of what is made from one."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from experiments.jobs.split_predictions import SplitPredictions, predictions_file
from experiments.storage.stored_study import StoredStudy, TrialRow
from experiments.studies.study_origin import StudyOrigin, origin_file
from experiments.studies.study_result import final_folder, trial_folder
from experiments.study_page.record import ImageRow
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.training.result import ModelCost
from tests.tiny import write_tiny

RUNS = ("aaaaaaaa1", "bbbbbbbb2")
INTERVAL = {"mean": 0.75, "low": 0.7, "high": 0.8}
EVALUATION = {
    "threshold": 0.5,
    "examples": 5,
    "empty": 1,
    "scores": {"dice": INTERVAL},
    "baselines": {"all_background": 0.1, "best_constant": 0.3, "nearest_image": 0.6},
}
COSTS = tuple(
    ModelCost(parameters=1234, multiply_adds=size * 1_000_000, latency_ms=size / 2, images_per_second=20.0)
    for size in (20, 56)
)


def trial(number: int, loss: str, val_dice: float | None, **changes: object) -> TrialRow:
    row = TrialRow(
        number=number,
        state="finished",
        config=TrainConfig(loss=loss, image_size=16, depth=1, filters=2),
        val_dice=val_dice,
        run_id=RUNS[number] if number < len(RUNS) else None,
        reason="",
        seconds=90.0,
        curve={1: 0.2, 2: val_dice or 0.1},
        cost=None if val_dice is None else COSTS[number % 2],
    )
    return replace(row, **changes)


def write_workspace(folder: Path, file_name: str = "test/0.png", finding: str = "a finding") -> StoredStudy:
    """A workspace with two finished trials, the second one scored on test, and one that failed."""
    dataset = write_tiny(folder / "datasets" / "tiny-0")
    study = StoredStudy(
        study="unet",
        dataset_key="tiny-0",
        dataset_name="tiny",
        split="official",
        sampler="grid",
        settings={"image_size": 16, "loss": ["bce", "dice"], "learning_rate": 0.001},
        run_id="cccccccc3",
        rows=(
            trial(0, "bce", 0.5),
            trial(1, "dice", 0.75),
            trial(2, "dice", None, state="failed", reason="killed by SIGKILL"),
        ),
    )
    for row, threshold in zip(study.rows, (0.2, 0.4), strict=False):
        assert row.run_id is not None
        job = trial_folder(folder, "unet", row.number, row.run_id)
        job.mkdir(parents=True)
        save_predictions(dataset, job, "val", threshold)
    final = final_folder(job)
    final.mkdir()
    save_predictions(dataset, final, "test", 0.4)
    (final / "evaluation.json").write_text(json.dumps(EVALUATION))
    images = [image(index, file_name if index == 0 else f"test/{index}.png") for index in range(5)]
    with (final / "per_image.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, asdict(images[0]))
        table.writeheader()
        table.writerows(asdict(row) for row in images)
    audit = folder / "audits" / "tiny-0"
    audit.mkdir(parents=True)
    findings = [
        {"severity": "info", "title": "a note", "count": 1},
        {"severity": "error", "title": finding, "count": 1234},
    ]
    (audit / "audit.json").write_text(json.dumps({"key": "tiny-0", "findings": findings}))
    (audit / "audit.html").write_text("<html>")
    origin = StudyOrigin(
        command="python -m experiments.main --data='my scans'", versions={"numpy": "2"}, git_commit="abc", machine="box"
    )
    origin.save(origin_file(folder, "unet", "cccccccc3"))
    return study


def save_predictions(dataset: Manifest, folder: Path, split: str, threshold: float) -> None:
    """As of a model that sees how bright a pixel is."""
    records = dataset.records(split)
    bright = records[..., 0].astype(np.float32) / 255
    SplitPredictions.of(records, bright, threshold, dataset.key).save(predictions_file(folder, split))


def image(index: int, file_name: str) -> ImageRow:
    return ImageRow(
        index=index,
        file_name=file_name,
        dice=0.9 - index / 10,
        dice_own_size=0.5,
        iou=0.4,
        true_positive=1000 + index,
        false_positive=20,
        false_negative=3,
    )
