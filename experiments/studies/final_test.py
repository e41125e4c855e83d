"""The one place where a study uses the test split: for its winner, noted in its storage and on its MLflow run."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.command_line.options import OPTIONS
from experiments.executors.base import Executor
from experiments.jobs.one_job import evaluate
from experiments.jobs.tasks import EVALUATION_FORMAT
from experiments.registry.image_scores import FINAL, SPLIT
from experiments.storage.stored_study import TestUse, TrialRow
from experiments.storage.study_hold import note_test_use
from experiments.storage.study_store import read_study
from experiments.studies.study_result import StudyResult, final_folder
from experiments.tracking.tracker import Tracker
from seg.data.manifest import Manifest
from seg.decision import LARGEST_COMPONENT
from seg.errors import UserError
from seg.symmetries import TTA

SCORING = {
    "tta": replace(
        OPTIONS["tta"],
        default="none",
        choices=tuple(TTA),
        help="test-time augmentation of the final evaluation, which a registered model keeps: none; flips, the mean "
        "of an image and its three mirror images; square, of these and their quarter turns, in eight times the time",
    ),
    "largest_component": replace(
        OPTIONS["largest_component"],
        default="no",
        choices=LARGEST_COMPONENT,
        help="yes: of each class of a mask only the largest connected component stays, in the final evaluation and in "
        "a registered model; no: all of it",
    ),
}
"""The options that say how a study's winner is scored; choose them on validation."""


def score_on_test(
    result: StudyResult,
    trial: TrialRow,
    manifest: Manifest,
    tracker: Tracker,
    executor: Executor,
    storage: str,
    tta: str,
    largest_component: str,
    registered_threshold: float | None = None,
) -> dict[str, Any]:
    """Scores a finished trial on the test split, unless that was done; its run and the study's show the scores.

    Args:
        tta, largest_component: that the threshold is tuned and the trial scored with; see `seg.symmetries` and
            `seg.decision`.
        registered_threshold: of the version that holds the trial's model already; None where there is none.

    Returns:
        its evaluation (`experiments.jobs.tasks`); the files lie in the trial's `final_folder`.

    Raises:
        UserError: if the trial's model is gone, or `registered_threshold` is no longer what validation gives.
        JobFailed: if the evaluation fails.
    """
    assert trial.run_id is not None
    model = result.folder(trial) / "model.keras"
    if not model.is_file():
        raise UserError(f"{model} must be there to be scored, and is gone; use another study name.")
    # First: a use that fails half-way is one.
    note_test_use(storage, result.study, trial.number)
    use = next(use for use in read_study(storage, result.study).test_uses if use.trial == trial.number)
    folder = final_folder(model.parent)
    evaluation = _evaluate_once(executor, folder, model, manifest, tta, largest_component, registered_threshold)
    _show(result, trial, use, evaluation, tracker)
    return evaluation


def _show(result: StudyResult, trial: TrialRow, use: TestUse, evaluation: Mapping[str, Any], tracker: Tracker) -> None:
    """Logs the scores on the trial's run and the study's; again where that was done, which changes nothing."""
    assert trial.run_id is not None
    for run_id in (trial.run_id, result.run_id):
        tracker.log_metrics(run_id, score_metrics(evaluation, SPLIT))
        tracker.log_folder(run_id, final_folder(result.folder(trial)), FINAL)
        tracker.log_tags(run_id, {"test_trial": use.trial, "test_used_at": use.at})


def score_on_test_once(
    result: StudyResult,
    manifest: Manifest,
    tracker: Tracker,
    executor: Executor,
    storage: str,
    tta: str,
    largest_component: str,
) -> None:
    """Scores the study's winner on the test split, if the study never used it.

    Else it only ends a use that was cut short, before or after the scores were there, or has those of an older format
    made anew, of the same trial.

    Raises:
        UserError, JobFailed: as `score_on_test`.
    """
    kept = read_study(storage, result.study)
    uses = kept.test_uses
    trial = result.winner()
    if uses:
        trial = next(row for row in kept.rows if row.number == uses[0].trial)  # the result may have left it out
        known = _known(final_folder(result.folder(trial)))
        if known.get("format") == EVALUATION_FORMAT:
            _show(result, trial, uses[0], known, tracker)
            return
    score_on_test(result, trial, manifest, tracker, executor, storage, tta, largest_component)


def check_scored_alike(storage: str, study: str, workspace: Path, tta: str, largest_component: str) -> None:
    """Refuses, before anything trains, another `tta` or `largest_component` than a study's test scores are of.

    Raises:
        UserError: then.
    """
    try:
        stored = read_study(storage, study)
    except UserError:  # a new study; what else may be wrong with the storage is said when it is opened
        return
    found = StudyResult(study=study, run_id=stored.run_id or "", workspace=workspace, rows=stored.rows, ran=0)
    for use in stored.test_uses[:1]:
        trial = next(row for row in stored.rows if row.number == use.trial)
        known = _known(final_folder(found.folder(trial)))
        for option, given in (("tta", tta), ("largest_component", largest_component)):
            if known.get(option, given) != given:
                raise UserError(
                    f"{option} must stay {known[option]}, with which trial {trial.number} of study '{study}' was "
                    f"scored on the test split, got {given}; use another study name."
                )


def score_metrics(evaluation: Mapping[str, Any], split: str) -> dict[str, float]:
    """The metrics of an evaluation under the names of docs/protocol.md."""
    threshold = evaluation["threshold"]
    metrics = {} if threshold is None else {f"{split}_threshold": float(threshold)}
    for name, interval in evaluation["scores"].items():
        metric = f"{split}_{name}"
        if metric == "val_dice":
            metric = "val_dice_tuned"  # the bare name is the score of training, at threshold 0.5
        metrics[metric] = interval["mean"]
        metrics[f"{metric}_low"] = interval["low"]
        metrics[f"{metric}_high"] = interval["high"]
    return metrics | {f"{split}_baseline_{name}": score for name, score in evaluation["baselines"].items()}


def _evaluate_once(
    executor: Executor,
    folder: Path,
    model: Path,
    manifest: Manifest,
    tta: str,
    largest_component: str,
    registered_threshold: float | None,
) -> dict[str, Any]:
    """The test split is used once for a winner: a study that goes on and keeps its winner keeps its scores."""
    known = _known(folder)
    wanted = {"format": EVALUATION_FORMAT, "split_key": manifest.splits[SPLIT].key, "tta": tta}
    wanted["largest_component"] = largest_component
    if {name: known.get(name) for name in wanted} == wanted:
        return known
    return evaluate(executor, folder, model, manifest, SPLIT, None, tta, largest_component, registered_threshold)


def _known(folder: Path) -> dict[str, Any]:
    """The evaluation that lies in a folder, of whatever format; empty if none can be read."""
    try:
        found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
