"""After a study: score its winner on the test split once, register it, and make it champion if it passes the gate."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from experiments.executors.base import Executor
from experiments.final_test import score_on_test
from experiments.image_scores import SPLIT, ImageScores, read_scores, scores_on
from experiments.progress import describe
from experiments.promotion import Decision, contend
from experiments.registry import ModelInfo, Registry
from experiments.search import SearchSpace
from experiments.storage import TrialRow
from experiments.study_result import StudyResult, final_folder
from experiments.tracking import Tracker
from seg.data.appearance import measure_training_images
from seg.data.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What `main` tells at the end.

    Attributes:
        trial: number of the best trial.
        arm: what distinguishes it, for people.
        config: its settings.
        folder: holds the files of its evaluation.
        evaluation: on the test split; see `experiments.tasks`.
        version: the registered model.
        decision: whether it is champion now, and why.
    """

    trial: int
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
    """Evaluates and registers the best trial of a study.

    Raises:
        UserError: if no trial finished, or the best one's model is gone.
        JobFailed: if the evaluation fails.
    """
    best = result.winner()
    assert best.config is not None
    assert best.run_id is not None
    model = result.folder(best) / "model.keras"
    folder = final_folder(model.parent)
    evaluation = score_on_test(
        result, best, manifest, tracker, executor, values.storage, values.tta, values.largest_component
    )
    version = _register(best, model, evaluation, manifest, tracker, values.model_name)
    decision = _decide(version, folder, tracker, executor, values)
    tracker.log_tags(result.run_id, {"best_trial": best.number, "model": version.uri, "champion": decision.promoted})
    return Finished(
        trial=best.number,
        arm=describe(best.config, space.base),
        config=best.config.as_dict(),
        folder=folder,
        evaluation=evaluation,
        version=version,
        decision=decision,
    )


def _register(
    best: TrialRow, model: Path, evaluation: Mapping[str, Any], manifest: Manifest, tracker: Tracker, name: str
) -> ModelInfo:
    assert best.run_id is not None
    image = manifest.records(SPLIT)[0, ..., 2::-1]  # OpenCV writes BGR
    return Registry(tracker.uri).register(
        best.run_id,
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
