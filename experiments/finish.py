"""After a study: score its winner on the test split once, register it, and make it champion if it is better."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from experiments import datasets
from experiments.executors.base import Executor
from experiments.models import fetch_version
from experiments.one_job import evaluate
from experiments.progress import describe
from experiments.registry import ModelInfo, Registered, Registry
from experiments.search import SearchSpace
from experiments.storage import TrialRow
from experiments.study_result import StudyResult, final_folder
from experiments.tracking import Tracker
from seg.data.appearance import measure_training_images
from seg.data.manifest import Manifest
from seg.errors import UserError

SPLIT = "test"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What `main` tells at the end.

    Attributes:
        trial: number of the best trial.
        arm: what distinguishes it, for people.
        evaluation: on the test split; see `experiments.tasks`.
        registered: what became of the model.
    """

    trial: int
    arm: str
    evaluation: Mapping[str, Any]
    registered: Registered


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
    if not model.is_file():
        raise UserError(f"{model} must be there to be registered, and is gone; use another study name.")
    folder = final_folder(model.parent)
    evaluation = _evaluate_once(executor, folder, model, manifest)
    metrics = score_metrics(evaluation, SPLIT)
    for run_id in (best.run_id, result.run_id):
        tracker.log_metrics(run_id, metrics)
        tracker.log_folder(run_id, folder, "final")
    registered = _register(best, model, evaluation, manifest, tracker, executor, values)
    tracker.log_tags(
        result.run_id, {"best_trial": best.number, "model": registered.model.uri, "champion": registered.is_champion}
    )
    return Finished(
        trial=best.number, arm=describe(best.config, space.base), evaluation=evaluation, registered=registered
    )


def score_metrics(evaluation: Mapping[str, Any], split: str) -> dict[str, float]:
    """The metrics of an evaluation under the names of docs/protocol.md."""
    metrics = {f"{split}_threshold": float(evaluation["threshold"])}
    for name, interval in evaluation["scores"].items():
        metric = f"{split}_{name}"
        if metric == "val_dice":
            metric = "val_dice_tuned"  # the bare name is the score of training, at threshold 0.5
        metrics[metric] = interval["mean"]
        metrics[f"{metric}_low"] = interval["low"]
        metrics[f"{metric}_high"] = interval["high"]
    return metrics | {f"{split}_baseline_{name}": score for name, score in evaluation["baselines"].items()}


def _evaluate_once(executor: Executor, folder: Path, model: Path, manifest: Manifest) -> dict[str, Any]:
    """The test split is used once for a winner: a study that goes on and keeps its winner keeps its scores."""
    try:
        known: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return evaluate(executor, folder, model, manifest, SPLIT, None)
    return known


def _register(
    best: TrialRow,
    model: Path,
    evaluation: Mapping[str, Any],
    manifest: Manifest,
    tracker: Tracker,
    executor: Executor,
    values: argparse.Namespace,
) -> Registered:
    assert best.run_id is not None
    registry = Registry(tracker.uri)
    test_key = manifest.splits[SPLIT].key
    champion = registry.champion(values.model_name)
    champion_dice = None
    # A champion without our score is none of ours: it cannot be scored here, and it keeps its alias.
    if champion is not None and champion.dice is not None and champion.test_key != test_key:
        champion_dice = _score_champion(champion, registry, executor, model.parent.with_name("champion"), values)
    image = manifest.records(SPLIT)[0, ..., 2::-1]  # OpenCV writes BGR
    return registry.register(
        best.run_id,
        model,
        values.model_name,
        scores={name: interval["mean"] for name, interval in evaluation["scores"].items()},
        threshold=evaluation["threshold"],
        dataset_key=manifest.key,
        test_key=test_key,
        example=cv2.imencode(".png", image)[1].tobytes(),
        training_images=measure_training_images(manifest),
        champion_dice=champion_dice,
    )


def _score_champion(
    champion: ModelInfo, registry: Registry, executor: Executor, folder: Path, values: argparse.Namespace
) -> float:
    """The champion's score on the test images at hand: its own scores are of others."""
    model = fetch_version(champion, registry, folder / f"version_{champion.version}")
    manifest = datasets.prepare(values, model.image_size)
    evaluation = evaluate(executor, folder, model.file, manifest, SPLIT, model.threshold)
    return float(evaluation["scores"]["dice_own_size"]["mean"])
