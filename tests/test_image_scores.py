import argparse
import json
from pathlib import Path
from typing import Any

import mlflow
import pytest

from experiments.registry import image_scores
from experiments.registry.image_scores import ImageScores, read_scores, scores_on, stored_scores
from experiments.registry.models import FetchedModel
from experiments.registry.registry import ModelInfo
from experiments.tracking.tracker import Tracker
from seg.errors import UserError
from tests.tiny import write_tiny


def write_scores(
    folder: Path, *, key: str = "key", groups: tuple[str, str] = ("", ""), examples: int = 2, **options: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = {"split_key": key, "examples": examples, "threshold": 0.5, "tta": "none", "largest_component": "no"}
    (folder / "evaluation.json").write_text(json.dumps(evaluation | options))
    rows = [f"{index},{0.25 * (index + 1)},{group}" for index, group in enumerate(groups)]
    (folder / "per_image.csv").write_text("\n".join(["index,dice_own_size,group", *rows]) + "\n")
    return folder


def version(run_id: str, number: str = "1") -> ModelInfo:
    return ModelInfo(name="seg-unet", version=number, run_id=run_id, test_key="key", dice=0.5)


def test_read(tmp_path: Path) -> None:
    assert read_scores(write_scores(tmp_path)) == ImageScores(test_key="key", dice_own_size=(0.25, 0.5))
    grouped = read_scores(write_scores(tmp_path, groups=("ann", "")))
    assert grouped.groups == ("group ann", "image 1")


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold the files of an evaluation, got: FileNotFoundError"):
        read_scores(tmp_path)
    with pytest.raises(UserError, match="2 rows for 3 images"):
        read_scores(write_scores(tmp_path, examples=3))
    (tmp_path / "per_image.csv").write_text("index,dice\n0,1\n")
    with pytest.raises(UserError, match="must hold the files of an evaluation, got: KeyError"):
        read_scores(tmp_path)


class VersionOptions:
    """A registry that knows how its only version was scored."""

    def scored_with(self, version: ModelInfo) -> dict[str, str]:
        return {"threshold": "0.5", "tta": "none", "largest_component": "no"}


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}", None)


@pytest.fixture
def run_id(tracker: Tracker, tmp_path: Path) -> str:
    client = mlflow.MlflowClient(tracker.uri)
    experiment = client.create_experiment(str(tmp_path), (tmp_path / "artifacts").as_uri())
    return str(client.create_run(experiment).info.run_id)


def test_scores_come_from_the_versions_run(tracker: Tracker, run_id: str, tmp_path: Path) -> None:
    registry: Any = VersionOptions()
    assert stored_scores(version("0" * 32), tracker, registry) is None  # no run
    assert stored_scores(version(run_id), tracker, registry) is None  # no artifact
    folder = write_scores(tmp_path / "job")
    tracker.log_folder(run_id, folder, "final")
    assert stored_scores(version(run_id), tracker, registry) == read_scores(folder)
    (folder / "evaluation.json").write_text("{}")
    tracker.log_folder(run_id, folder, "final")
    assert stored_scores(version(run_id), tracker, registry) is None  # of an older version


@pytest.mark.parametrize("other", [{"tta": "flips"}, {"largest_component": "yes"}, {"threshold": 0.35}])
def test_scores_of_the_run_with_other_options_are_not_the_versions(
    tracker: Tracker, run_id: str, tmp_path: Path, other: dict[str, Any]
) -> None:
    registry: Any = VersionOptions()
    tracker.log_folder(run_id, write_scores(tmp_path / "job"), "final")
    assert stored_scores(version(run_id), tracker, registry) is not None
    tracker.log_folder(run_id, write_scores(tmp_path / "job", **other), "final")
    assert stored_scores(version(run_id), tracker, registry) is None


def test_scores_of_other_images_are_measured(
    tracker: Tracker, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_tiny(tmp_path / "tiny")
    key = manifest.splits["test"].key
    tracker.log_folder(run_id, write_scores(tmp_path / "job", key="old"), "final")
    calls: list[tuple[Any, ...]] = []

    def evaluate(executor: Any, folder: Path, *arguments: Any) -> None:
        calls.append(arguments)
        write_scores(folder, key=key)

    fetched = FetchedModel(file=tmp_path / "model.keras", threshold=0.35, tta="flips", image_size=16, run_id="")
    monkeypatch.setattr(image_scores, "evaluate", evaluate)
    monkeypatch.setattr(image_scores, "fetch_version", lambda *arguments: fetched)
    monkeypatch.setattr(image_scores.datasets, "prepare", lambda values, image_size: manifest)
    surroundings: dict[str, Any] = {
        "tracker": tracker,
        "registry": VersionOptions(),
        "executor": None,
        "values": argparse.Namespace(data="demo"),
        "folder": tmp_path / "promotions",
    }
    assert scores_on(version(run_id), "old", **surroundings).test_key == "old"
    assert calls == []
    assert scores_on(version(run_id), key, **surroundings) == ImageScores(test_key=key, dice_own_size=(0.25, 0.5))
    assert calls == [(tmp_path / "model.keras", manifest, "test", 0.35, "flips", "no")]  # as it was tuned
    with pytest.raises(UserError, match="version 1 has no scores on the test images new .* 'demo' has the test images"):
        scores_on(version(run_id), "new", **surroundings)
