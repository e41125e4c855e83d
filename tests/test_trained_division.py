"""`evaluate` divides the images as they were when the model was trained."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from experiments import evaluate
from experiments.registry.models import FetchedModel
from experiments.tracking.tracker import Tracker
from experiments.tracking.trained_division import trained_division
from seg.config import TrainConfig
from seg.data.splits import DivisionSettings
from seg.errors import UserError
from tests.study_setting import make_manifest

GROUPED = {"group_pattern": r"(p\d+)_", "group_column": "", "split_seed": 3}


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db", None)


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"group_pattern": "", "group_column": "", "split_seed": 0} | given)


def fetched(run_id: str) -> FetchedModel:
    return FetchedModel(file=Path("model.keras"), threshold=None, image_size=64, run_id=run_id)


def train(tracker: Tracker, folder: Path, split: str, settings: dict[str, Any]) -> str:
    manifest = replace(make_manifest(folder, split=split), settings=settings)
    return tracker.start_run("training", {}, manifest)


def test_the_official_split(tracker: Tracker, tmp_path: Path) -> None:
    run_id = train(tracker, tmp_path, "official", {"crowds": "ignore"})
    assert trained_division(options(), fetched(run_id), tracker) == DivisionSettings()
    assert not {"group_pattern", "group_column", "split_seed"} & set(tracker.tags(run_id))


@pytest.mark.parametrize(
    ("split", "settings", "expected"),
    [
        ("grouped", GROUPED, DivisionSettings("grouped", r"(p\d+)_", "", 3)),
        ("kfold:5/2", GROUPED, DivisionSettings("kfold:5/2", r"(p\d+)_", "", 3)),
        (
            "grouped",
            {"group_pattern": "", "group_column": "extra.patient", "split_seed": 0},
            DivisionSettings("grouped", "", "extra.patient", 0),
        ),
    ],
)
def test_groups_and_seed_of_the_run(
    tracker: Tracker, tmp_path: Path, split: str, settings: dict[str, Any], expected: DivisionSettings
) -> None:
    run_id = train(tracker, tmp_path, split, settings)
    assert trained_division(options(), fetched(run_id), tracker) == expected


def test_a_trial_of_a_study_knows_it_too(tracker: Tracker, tmp_path: Path) -> None:
    manifest = replace(make_manifest(tmp_path, split="grouped"), settings=GROUPED)
    parent = tracker.start_study("widths", {}, manifest)
    trial = tracker.start_trial(parent, "widths", 0, TrainConfig(), manifest)
    try:
        assert trained_division(options(), fetched(trial), tracker) == DivisionSettings("grouped", r"(p\d+)_", "", 3)
    finally:
        tracker.end(trial, "finished")


def test_a_model_without_a_run(tracker: Tracker) -> None:
    with pytest.raises(UserError, match=r"how the model's images were divided, and it has no run; give dataset_split"):
        trained_division(options(), fetched(""), tracker)


@pytest.mark.parametrize("tags", [{}, {"split": "grouped"}, {"split": "grouped", "split_seed": "three"}])
def test_a_run_that_does_not_say_it(tracker: Tracker, tags: dict[str, str]) -> None:
    run_id = mlflow.MlflowClient(tracker.uri).create_run("0", tags=tags).info.run_id
    with pytest.raises(UserError, match=f"run {run_id} does not say it; give dataset_split, group_pattern or"):
        trained_division(options(), fetched(run_id), tracker)


@pytest.mark.parametrize(("name", "value"), [("group_pattern", "x"), ("group_column", "y"), ("split_seed", 3)])
def test_groups_are_not_given_beside_those_of_the_run(tracker: Tracker, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{name} must not be given with dataset_split=auto.* got '{value}'; give data"):
        trained_division(options(**{name: value}), fetched("run"), tracker)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], DivisionSettings("grouped", r"(p\d+)_", "", 3)),
        (["--dataset_split=official"], DivisionSettings()),
        (
            ["--dataset_split=kfold:3/1", "--group_column=patient", "--split_seed=4"],
            DivisionSettings("kfold:3/1", "", "patient", 4),
        ),
    ],
)
def test_evaluate_takes_the_runs_division_unless_told_otherwise(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], expected: DivisionSettings
) -> None:
    class Prepared(Exception):
        pass

    def prepare(values: argparse.Namespace, image_size: int, division: DivisionSettings) -> None:
        assert division == expected
        raise Prepared

    run_id = train(tracker, tmp_path, "grouped", GROUPED)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setattr(evaluate, "fetch_model", lambda *arguments: fetched(run_id))
    monkeypatch.setattr(evaluate.datasets, "prepare", prepare)
    with pytest.raises(Prepared):
        evaluate.main([f"--workspace={tmp_path / 'workspace'}", *given])
