"""After a study: score its winner on the test split once, register it, and make it champion if it passes the gate."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from experiments.command_line.progress import describe
from experiments.executors.base import Executor
from experiments.jobs.split_predictions import SplitPredictions, predictions_file
from experiments.registry.image_scores import SPLIT, ImageScores, read_scores, scores_on
from experiments.registry.promotion import Decision, contend
from experiments.registry.registry import ModelInfo, Registry, check_contender
from experiments.storage.stored_study import Selection
from experiments.storage.study_hold import note_selection
from experiments.studies.comparison import arms, shared_seeds
from experiments.studies.final_test import score_on_test
from experiments.studies.search import SearchSpace
from experiments.studies.selection import BEST, SMALLEST, Candidate, highest, smallest_within
from experiments.studies.study_result import StudyResult, final_folder
from experiments.tracking.delivery import NotDelivered
from experiments.tracking.tracker import Tracker
from experiments.tracking.transport import answers
from seg.crossed import standard_error
from seg.data.appearance import measure_training_images
from seg.data.manifest import Manifest
from seg.errors import UserError
from seg.training.image_score import group_names


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What `main` tells at the end.

    Attributes:
        selection: the trial that was scored and registered, and why it.
        arm: what distinguishes it, for people.
        config: its settings.
        folder: holds the files of its evaluation.
        evaluation: on the test split; see `experiments.jobs.tasks`.
        version: the registered model.
        decision: whether it is champion now, and why.
    """

    selection: Selection
    arm: str
    config: Mapping[str, Any]
    folder: Path
    evaluation: Mapping[str, Any]
    version: ModelInfo
    decision: Decision


def finish(
    result: StudyResult,
    space: SearchSpace,
    manifest: Manifest,
    tracker: Tracker,
    executor: Executor,
    values: argparse.Namespace,
) -> Finished:
    """Evaluates and registers the trial that `select` chooses from a study.

    Raises:
        UserError: if what `select` takes, or the chosen trial's model, is gone.
        JobFailed: if no trial finished, or the evaluation fails.
        NotDelivered: if MLflow does not answer, and the model can be registered only later.
    """
    selection = choose(values.select, result, manifest)
    note_selection(values.storage, result.study, selection)
    chosen = next(row for row in result.rows if row.number == selection.trial)
    assert chosen.config is not None
    model = result.folder(chosen) / "model.keras"
    folder = final_folder(model.parent)
    assert chosen.run_id is not None
    scoring = values.tta, values.largest_component
    known = _registered_threshold(chosen.run_id, tracker, values.model_name, *scoring)
    evaluation = score_on_test(result, chosen, manifest, tracker, executor, values.storage, *scoring, known)
    version = _register(tracker.delivered(chosen.run_id), model, evaluation, manifest, tracker, values.model_name)
    decision = _decide(version, folder, tracker, executor, values)
    tracker.log_tags(
        result.run_id,
        {
            "best_trial": selection.best,
            "selected_trial": selection.trial,
            "selected_because": selection.because,
            "model": version.uri,
            "champion": decision.promoted,
        },
    )
    return Finished(
        selection=selection,
        arm=describe(chosen.config, space.base),
        config=chosen.config.as_dict(),
        folder=folder,
        evaluation=evaluation,
        version=version,
        decision=decision,
    )


def check_select(rule: str, manifest: Manifest) -> None:
    """Refuses, before anything is trained, what could not be decided afterwards.

    Raises:
        UserError: if the validation split has no standard error.
    """
    if rule == BEST:
        return
    groups = _groups(manifest)
    units = manifest.splits["val"].examples if groups is None else len(set(groups))
    if units < 2:
        raise UserError(
            f"select={SMALLEST} takes validation images of two groups at least, or two images where no groups are "
            f"known, got {units}; use select={BEST}."
        )


def choose(rule: str, result: StudyResult, manifest: Manifest) -> Selection:
    """The trial to register, by the option `select`.

    Raises:
        JobFailed: if no trial finished.
        UserError: if what the best arm's trials predict on validation is gone, or their cost is not known.
    """
    best = result.winner()
    if rule == BEST:
        return highest(best)
    found = [arm for arm in arms(result.rows) if arm.val_dice]
    seeds = shared_seeds(found)
    numbered = {row.number: row for row in result.rows}
    candidates = [
        Candidate(trial=numbered[arm.best_trial], mean=arm.mean_over(seeds), seeds=len(seeds) or len(arm.by_seed))
        for arm in found
        if arm.best_trial is not None
    ]
    trials = [numbered[found[0].trial_by_seed[seed]] for seed in seeds or found[0].by_seed]
    files = [predictions_file(result.folder(trial), "val") for trial in trials]
    dice = np.stack([SplitPredictions.load(file).dice for file in files])
    return smallest_within(candidates[0], candidates, standard_error(dice, _groups(manifest)))


def _groups(manifest: Manifest) -> list[str] | None:
    names = [example.group for example in manifest.examples("val")]
    return group_names(names, range(len(names)))


def _registered_threshold(run_id: str, tracker: Tracker, name: str, tta: str, largest_component: str) -> float | None:
    """The threshold of the version that holds a run's model; None where there is none, or MLflow does not answer.

    Raises:
        UserError: if it was registered with other options: said before the test split is used, not after.
    """
    if not answers(tracker.uri):
        return None
    try:
        delivered = tracker.delivered(run_id)
    except NotDelivered:  # so nothing is registered; the scores are wanted all the same
        return None
    registry = Registry(tracker.uri)
    version = registry.check_kept(name, delivered, {"tta": tta, "largest_component": largest_component})
    threshold = registry.tags(version).get("threshold", "none") if version else "none"
    return None if threshold == "none" else float(threshold)


def _register(
    run_id: str, model: Path, evaluation: Mapping[str, Any], manifest: Manifest, tracker: Tracker, name: str
) -> ModelInfo:
    image = manifest.records(SPLIT)[0, ..., 2::-1]  # OpenCV writes BGR
    registry = Registry(tracker.uri)
    check_contender(registry, name, manifest.classes)  # MLflow may have been away when the command began
    return registry.register(
        run_id,
        model,
        name,
        scores={score: interval["mean"] for score, interval in evaluation["scores"].items()},
        threshold=evaluation["threshold"],
        dataset_key=manifest.key,
        test_key=manifest.splits[SPLIT].key,
        example=cv2.imencode(".png", image)[1].tobytes(),
        training_images=measure_training_images(manifest),
        exif=manifest.settings["exif"],
        tta=evaluation["tta"],
        largest_component=evaluation["largest_component"],
        classes=manifest.classes,
    )


def _decide(
    version: ModelInfo, folder: Path, tracker: Tracker, executor: Executor, values: argparse.Namespace
) -> Decision:
    """The gate between the new version, whose evaluation lies in `folder`, and the champion."""
    registry = Registry(tracker.uri)
    ours = read_scores(folder)

    def scores_of(model: ModelInfo) -> ImageScores:
        if model == version:
            return ours
        place = Path(values.workspace).absolute() / "promotions"
        return scores_on(
            model, ours.test_key, tracker=tracker, registry=registry, executor=executor, values=values, folder=place
        )

    return contend(registry, version, scores_of)
