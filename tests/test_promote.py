"""The entry point: what it prints, its exit codes, and which version it means."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest

from experiments import promote
from experiments.command_line import entry
from experiments.promote import find_challenger, main
from experiments.registry import image_scores
from experiments.registry.registry import Registry
from experiments.tracking.tracker import Tracker
from seg.errors import UserError


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Three versions with scores on eight images: 0.8, 0.7 and 0.8 each; version 1 is champion."""
    folder = tmp_path_factory.mktemp("template")
    tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", None)
    client = mlflow.MlflowClient(tracker.uri, tracker.uri)
    experiment = client.create_experiment("promote", (folder / "artifacts").as_uri())
    client.create_registered_model("seg-unet")
    runs = []
    for dice in (0.8, 0.7, 0.8):
        runs.append(str(client.create_run(experiment).info.run_id))
        scores = folder / "scores"
        scores.mkdir(exist_ok=True)
        (scores / "evaluation.json").write_text(json.dumps({"split_key": "key", "examples": 8}))
        rows = "".join(f"{index},{dice},\n" for index in range(8))
        (scores / "per_image.csv").write_text(f"index,dice_own_size,group\n{rows}")
        tracker.log_folder(runs[-1], scores, "final")
        tags = {"test_dice_own_size": str(dice), "test_key": "key"}
        client.create_model_version("seg-unet", folder.as_uri(), runs[-1], tags=tags)
    registry = Registry(tracker.uri)
    registry.make_champion(registry.find("models:/seg-unet/1"), None, ["1"])
    return folder / "mlflow.db", runs


@pytest.fixture
def registry(template: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    shutil.copyfile(template[0], tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{tmp_path / 'mlflow.db'}")
    return Registry(uri)


def champion(registry: Registry) -> str:
    found = registry.champion("seg-unet")
    assert found is not None
    return found.version


def test_the_newest_is_promoted_and_rolled_back(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("seg-unet version 3: the new champion over version 1: test Dice 0.8000")
    assert champion(registry) == "3"
    assert main(["--rollback=yes"]) == 0
    assert capsys.readouterr().out == "seg-unet version 1 is champion again, instead of 3\n"
    assert champion(registry) == "1"


def test_a_worse_one_is_not_promoted(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model=models:/seg-unet/2"]) == entry.NOT_PROMOTED == 4
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("seg-unet version 2: version 1 stays champion: test Dice 0.7000 against 0.8000")
    assert champion(registry) == "1"
    assert main(["--model=models:/seg-unet/2", "--margin=0.2"]) == 0
    assert champion(registry) == "2"


def test_force(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model=models:/seg-unet/2", "--force=yes"]) == 0
    assert "version 2: forced, although version 1 stays champion" in capsys.readouterr().out
    assert champion(registry) == "2"


def test_a_challenger_without_scores_is_scored_on_the_data(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def scores_on(version, test_key, **details):  # type: ignore[no-untyped-def]
        asked.append((version.version, test_key))
        return image_scores.ImageScores(test_key=test_key, dice_own_size=(0.5,) * 8)

    monkeypatch.setattr(promote, "stored_scores", lambda *arguments: None)
    monkeypatch.setattr(promote, "scores_on", scores_on)
    monkeypatch.setattr(promote, "_test_key", lambda *arguments: "of the data")
    assert main([]) == 0
    assert asked == [("3", "of the data"), ("1", "of the data")]


def test_which_version_is_meant(registry: Registry, template: tuple[Path, list[str]]) -> None:
    runs = template[1]
    assert find_challenger(registry, "seg-unet", "newest").version == "3"
    assert find_challenger(registry, "seg-unet", "models:/seg-unet@champion").version == "1"
    assert find_challenger(registry, "seg-unet", runs[1]).version == "2"
    with pytest.raises(UserError, match="model must be newest, models:/NAME/VERSION or a run .* got 'nobody'"):
        find_challenger(registry, "seg-unet", "nobody")


@pytest.mark.parametrize(
    "model",
    [
        "it's",
        "' or '1'='1",
        "",
        "models:/it's/1",
        "models:/seg-unet@it's",
        "models:/seg-unet/" + "9" * 30,
        "models:/",
        "a%",
    ],
)
def test_no_version_at_all(registry: Registry, model: str) -> None:
    with pytest.raises(UserError, match="model must be"):
        main([f"--model={model}"])


def test_one_that_was_rolled_back(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert main(["--rollback=yes"]) == 0
    capsys.readouterr()
    assert main([]) == entry.NOT_PROMOTED
    assert "version 3: it was rolled back (" in capsys.readouterr().out
    assert champion(registry) == "1"
    assert main(["--model=models:/seg-unet/3"]) == 0
    assert champion(registry) == "3"


@pytest.mark.parametrize("margin", ["-1", "2", "nan", "much"])
def test_a_margin_that_is_none(margin: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"--margin={margin}"])
    assert ended.value.code == 2
    assert "--margin" in capsys.readouterr().err
