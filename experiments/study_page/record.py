"""`StudyRecord`: all that a report tells of a study, gathered from its storage and its workspace.

What is missing (files of an older version, of pruned trials, of a workspace that was tidied up) stays None or empty:
the sections say so instead of failing.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from experiments.jobs.split_predictions import SplitPredictions, predictions_file
from experiments.reports.compared import SPLIT, Compared, compare
from experiments.storage.stored_study import StoredStudy, TrialRow
from experiments.studies.comparison import speaking
from experiments.studies.study_origin import StudyOrigin, origin_file
from experiments.studies.study_result import StudyResult, final_folder
from experiments.study_page.verdict import Verdict, judge
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
class StudyRecord:
    """A study and its files.

    Attributes:
        study: as the storage has it.
        manifest: the dataset; None if the workspace no longer holds it.
        winner: the best trial of the best arm; None if none finished.
        compared: the arms of a grid beside each other; None where that cannot be done.
        missing: why it cannot.
        scored: the trial that was scored on the test split: the selected one, else the winner, unless the study went
            on since; None if none.
        evaluation: its scores (`experiments.jobs.tasks`), and `validation_dice`, decided likewise; None as `scored`.
        images: the same per image, in the order of the records.
        audit: content of audit.json; None if the dataset was not audited.
        audit_folder: holds audit.json and audit.html.
        origin: None if the study was made by an older version.
    """

    study: StoredStudy
    workspace: Path
    manifest: Manifest | None
    winner: TrialRow | None
    compared: Compared | None
    missing: str
    scored: TrialRow | None
    evaluation: Mapping[str, Any] | None
    images: tuple[ImageRow, ...]
    audit: Mapping[str, Any] | None
    audit_folder: Path
    origin: StudyOrigin | None

    @property
    def rows(self) -> tuple[TrialRow, ...]:
        """The trials that speak for their arms."""
        return tuple(speaking(self.study))

    @property
    def shown(self) -> TrialRow | None:
        """The trial that stands for the study: the one that was registered, else the winner."""
        return _selected(self.study) or self.winner

    @property
    def verdict(self) -> Verdict:
        """What the arms say."""
        return judge(self.rows, self.study.sampler, self.compared, self.missing)

    @property
    def optimism_gap(self) -> float | None:
        """Dice on validation minus that on test, of the scored trial, decided alike; None where either is missing."""
        if self.evaluation is None or self.evaluation.get("validation_dice") is None:
            return None
        return float(self.evaluation["validation_dice"] - self.evaluation["scores"]["dice"]["mean"])

    def folder(self, row: TrialRow) -> Path | None:
        """Where a trial left its files; None if it never started."""
        return _folder(_result(self.study, self.workspace), row)

    def predictions(self, row: TrialRow, split: str) -> SplitPredictions | None:
        """What a trial predicts on a split (of the test split, the winner only); None unless it fits the dataset."""
        return _predictions(self.folder(row), self.manifest, split)

    def baselines(self, split: str) -> dict[str, float]:
        """Scores of what learned nothing; empty where the dataset is gone."""
        if self.manifest is None or split not in self.manifest.splits:
            return {}
        return baselines(self.manifest, split)


def gather(study: StoredStudy, workspace: Path) -> StudyRecord:
    """Reads what the workspace holds of a study."""
    rows = tuple(speaking(study))
    result = replace(_result(study, workspace), rows=rows)
    scored, evaluation = _scored(study, result)
    final = final_folder(result.folder(scored)) if scored else None
    images = optional(lambda: _images(final / "per_image.csv")) if final else None
    run_id = study.run_id
    audit_folder = workspace / "audits" / study.dataset_key
    manifest = optional(lambda: Manifest.load(workspace / "datasets" / study.dataset_key))
    compared, missing = None, ""
    if study.sampler == "grid":
        try:
            compared = compare(rows, manifest, lambda row: _predictions(_folder(result, row), manifest, SPLIT))
        except UserError as error:
            missing = str(error)
    return StudyRecord(
        study=study,
        workspace=workspace,
        manifest=manifest,
        winner=result.best,
        compared=compared,
        missing=missing,
        scored=scored,
        evaluation=evaluation,
        images=tuple(images or ()),
        audit=optional(lambda: _audit(audit_folder / "audit.json")),
        audit_folder=audit_folder,
        origin=optional(lambda: StudyOrigin.load(origin_file(workspace, study.study, run_id))) if run_id else None,
    )


def _scored(study: StoredStudy, result: StudyResult) -> tuple[TrialRow | None, Mapping[str, Any] | None]:
    """The trial whose test scores are there, and they: the selected one, the winner, else the last one scored."""
    numbered = {row.number: row for row in study.rows}
    candidates = [_selected(study), result.best, *(numbered.get(use.trial) for use in reversed(study.test_uses))]
    for row in candidates:
        if row is not None and (folder := _folder(result, row)) is not None:
            found = optional(lambda folder=folder, row=row: _evaluation(final_folder(folder) / "evaluation.json", row))  # type: ignore[misc]
            if found is not None:
                return row, found
    return None, None


def _selected(study: StoredStudy) -> TrialRow | None:
    chosen = study.selection
    return next((row for row in study.rows if chosen is not None and row.number == chosen.trial), None)


def _folder(result: StudyResult, row: TrialRow) -> Path | None:
    return None if row.run_id is None else result.folder(row)


def _predictions(folder: Path | None, manifest: Manifest | None, split: str) -> SplitPredictions | None:
    if folder is None or manifest is None or split not in manifest.splits:
        return None
    found = optional(lambda: SplitPredictions.load(predictions_file(final_folder(folder), split)))
    found = found or optional(lambda: SplitPredictions.load(predictions_file(folder, split)))
    if found is None or found.dataset_key != manifest.key:
        return None
    return found


def optional(read: Callable[[], Found]) -> Found | None:
    """What `read` returns, or None where the file is missing, damaged or of another version."""
    try:
        return read()
    except (UserError, OSError, ValueError, TypeError, KeyError):
        return None


def _result(study: StoredStudy, workspace: Path) -> StudyResult:
    return StudyResult(study=study.study, run_id=study.run_id or "", workspace=workspace, rows=study.rows, ran=0)


def _evaluation(path: Path, row: TrialRow) -> dict[str, Any]:
    """Checked here, so that the sections need not."""
    found = json.loads(path.read_text(encoding="utf-8"))
    scores = {
        name: {bound: float(interval[bound]) for bound in ("mean", "low", "high")}
        for name, interval in dict(found["scores"]).items()
    }
    return {
        "threshold": None if found["threshold"] is None else float(found["threshold"]),
        "examples": int(found["examples"]),
        "validation_dice": optional(lambda: _validation_dice(found, row)),
        "scores": scores | {"dice": scores["dice"]},
        "baselines": {name: float(score) for name, score in dict(found["baselines"]).items()},
    }


def _validation_dice(evaluation: Mapping[str, Any], row: TrialRow) -> float | None:
    """Mean Dice on validation, decided as on test: at the threshold that was tuned there, or by the highest class."""
    if evaluation["threshold"] is None:
        plain = (evaluation["tta"], evaluation["largest_component"]) == ("none", "no")
        return row.val_dice if plain else None  # training validates without either
    curve = evaluation["threshold_curve"]
    at = dict(zip(curve["thresholds"], curve["val"], strict=True))
    return float(at[evaluation["threshold"]])


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


def _table(path: Path) -> Sequence[Mapping[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
