"""The one place where a study uses the test split: for its winner, noted in its storage and on its MLflow run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.executors.base import Executor
from experiments.image_scores import FINAL, SPLIT
from experiments.one_job import evaluate
from experiments.storage import read_study
from experiments.stored_study import TrialRow
from experiments.study_hold import note_test_use
from experiments.study_result import StudyResult, final_folder
from experiments.tasks import EVALUATION_FORMAT
from experiments.tracking import Tracker
from seg.data.manifest import Manifest
from seg.errors import UserError


def score_on_test(
    result: StudyResult,
    trial: TrialRow,
    manifest: Manifest,
    tracker: Tracker,
    executor: Executor,
    storage: str,
    tta: str = "none",
    largest_component: str = "no",
) -> dict[str, Any]:
    """Scores a finished trial on the test split, unless that was done; its run and the study's show the scores.

    Args:
        tta, largest_component: that the threshold is tuned and the trial scored with; see `seg.symmetries` and
            `seg.decision`.

    Returns:
        its evaluation (`experiments.tasks`); the files lie in the trial's `final_folder`.

    Raises:
        UserError: if the trial's model is gone.
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
    evaluation = _evaluate_once(executor, folder, model, manifest, tta, largest_component)
    for run_id in (trial.run_id, result.run_id):
        tracker.log_metrics(run_id, score_metrics(evaluation, SPLIT))
        tracker.log_folder(run_id, folder, FINAL)
        tracker.log_tags(run_id, {"test_trial": use.trial, "test_used_at": use.at})
    return evaluation


def score_on_test_once(
    result: StudyResult, manifest: Manifest, tracker: Tracker, executor: Executor, storage: str
) -> None:
    """Scores the study's winner on the test split, if the study never used it; else only ends a use that was cut short.

    Raises:
        UserError, JobFailed: as `score_on_test`.
    """
    uses = read_study(storage, result.study).test_uses
    trial = result.winner()
    if uses:
        trial = next(row for row in result.rows if row.number == uses[0].trial)
        if (final_folder(result.folder(trial)) / "evaluation.json").is_file():
            return
    score_on_test(result, trial, manifest, tracker, executor, storage)


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
    executor: Executor, folder: Path, model: Path, manifest: Manifest, tta: str, largest_component: str
) -> dict[str, Any]:
    """The test split is used once for a winner: a study that goes on and keeps its winner keeps its scores."""
    try:
        known = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    wanted = {"format": EVALUATION_FORMAT, "split_key": manifest.splits[SPLIT].key, "tta": tta}
    wanted["largest_component"] = largest_component
    if {name: known.get(name) for name in wanted} == wanted:
        return dict(known)
    return evaluate(executor, folder, model, manifest, SPLIT, None, tta, largest_component)
