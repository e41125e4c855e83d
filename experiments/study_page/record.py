"""`StudyRecord`: all that a report tells of a study, gathered from its storage and its workspace.

What is missing (files of an older version, of pruned trials, of a workspace that was tidied up) stays None or empty:
the sections say so instead of failing.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from experiments.split_predictions import SplitPredictions, predictions_file
from experiments.storage import StoredStudy, TrialRow
from experiments.study_origin import StudyOrigin, origin_file
from experiments.study_result import StudyResult, final_folder
from seg.data.baselines import baselines
from seg.data.manifest import Manifest
from seg.errors import UserError

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """One line of an evaluation's per_image.csv; see `seg.training.evaluation.ImageScore`."""

    index: int
    file_name: str
    dice: float
    dice_own_size: float
    iou: float
    true_positive: int
    false_positive: int
    false_negative: int


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What a trial took.

    Attributes:
        epochs: that it trained.
        images_per_second: the median over its epochs.
        parameters: weights of the model; None in files of older versions.
    """

    epochs: int
    images_per_second: float
    parameters: int | None


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study and its files.

    Attributes:
        study: as the storage has it.
        manifest: the dataset; None if the workspace no longer holds it.
        winner: the best trial; None if none finished.
        evaluation: the winner's scores on the test split (`experiments.tasks`); None if it was not scored.
        images: the same per image, in the order of the records.
        audit: content of audit.json; None if the dataset was not audited.
        audit_folder: holds audit.json and audit.html.
        origin: None if the study was made by an older version.
    """

    study: StoredStudy
    workspace: Path
    manifest: Manifest | None
    winner: TrialRow | None
    evaluation: Mapping[str, Any] | None
    images: tuple[ImageRow, ...]
    audit: Mapping[str, Any] | None
    audit_folder: Path
    origin: StudyOrigin | None

    def folder(self, row: TrialRow) -> Path | None:
        """Where a trial left its files; None if it never started."""
        return None if row.run_id is None else _result(self.study, self.workspace).folder(row)

    def predictions(self, row: TrialRow, split: str) -> SplitPredictions | None:
        """What a trial predicts on a split (of the test split, the winner only); None unless it fits the dataset."""
        folder = self.folder(row)
        if folder is None or self.manifest is None or split not in self.manifest.splits:
            return None
        found = optional(lambda: SplitPredictions.load(predictions_file(final_folder(folder), split)))
        found = found or optional(lambda: SplitPredictions.load(predictions_file(folder, split)))
        if found is None or found.dataset_key != self.manifest.key:
            return None
        return found

    def cost(self, row: TrialRow) -> TrainingCost | None:
        """What a trial took; None where it left no history."""
        folder = self.folder(row)
        return None if folder is None else optional(lambda: _cost(folder))

    def baselines(self, split: str) -> dict[str, float]:
        """Scores of what learned nothing; empty where the dataset is gone."""
        if self.manifest is None or split not in self.manifest.splits:
            return {}
        return baselines(self.manifest, split)


def gather(study: StoredStudy, workspace: Path) -> StudyRecord:
    """Reads what the workspace holds of a study."""
    result = _result(study, workspace)
    final = None
    if result.best is not None and result.best.run_id is not None:
        final = final_folder(result.folder(result.best))
    evaluation = optional(lambda: _evaluation(final / "evaluation.json")) if final else None
    images = optional(lambda: _images(final / "per_image.csv")) if final and evaluation else None
    run_id = study.run_id
    audit_folder = workspace / "audits" / study.dataset_key
    return StudyRecord(
        study=study,
        workspace=workspace,
        manifest=optional(lambda: Manifest.load(workspace / "datasets" / study.dataset_key)),
        winner=result.best,
        evaluation=evaluation,
        images=tuple(images or ()),
        audit=optional(lambda: _audit(audit_folder / "audit.json")),
        audit_folder=audit_folder,
        origin=optional(lambda: StudyOrigin.load(origin_file(workspace, study.study, run_id))) if run_id else None,
    )


def optional(read: Callable[[], Found]) -> Found | None:
    """What `read` returns, or None where the file is missing, damaged or of another version."""
    try:
        return read()
    except (UserError, OSError, ValueError, TypeError, KeyError):
        return None


def _result(study: StoredStudy, workspace: Path) -> StudyResult:
    return StudyResult(study=study.study, run_id=study.run_id or "", workspace=workspace, rows=study.rows, ran=0)


def _evaluation(path: Path) -> dict[str, Any]:
    """Checked here, so that the sections need not."""
    found = json.loads(path.read_text(encoding="utf-8"))
    scores = {
        name: {bound: float(interval[bound]) for bound in ("mean", "low", "high")}
        for name, interval in dict(found["scores"]).items()
    }
    return {
        "threshold": float(found["threshold"]),
        "examples": int(found["examples"]),
        "scores": scores | {"dice": scores["dice"]},
        "baselines": {name: float(score) for name, score in dict(found["baselines"]).items()},
    }


def _images(path: Path) -> list[ImageRow]:
    return [
        ImageRow(
            index=int(row["index"]),
            file_name=row["file_name"],
            dice=float(row["dice"]),
            dice_own_size=float(row["dice_own_size"]),
            iou=float(row["iou"]),
            true_positive=int(row["true_positive"]),
            false_positive=int(row["false_positive"]),
            false_negative=int(row["false_negative"]),
        )
        for row in _table(path)
    ]


def _audit(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    findings = [
        {"severity": str(entry["severity"]), "title": str(entry["title"]), "count": int(entry["count"])}
        for entry in found["findings"]
    ]
    return {"key": str(found["key"]), "findings": findings}


def _cost(folder: Path) -> TrainingCost:
    speeds = sorted(float(row["images_per_second"]) for row in _table(folder / "history.csv"))
    if not speeds:
        raise ValueError("no epoch")
    parameters = optional(lambda: int(json.loads((folder / "result.json").read_text(encoding="utf-8"))["parameters"]))
    return TrainingCost(epochs=len(speeds), images_per_second=speeds[len(speeds) // 2], parameters=parameters)


def _table(path: Path) -> Sequence[Mapping[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
