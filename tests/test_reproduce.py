"""A recorded training, again: the same model bit for bit, and what differs is named; as a person starts it."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest

from experiments import reproduce, study, train
from experiments.reproduction.recorded_run import find_run
from experiments.tracking.tracker import Tracker
from seg.data.demo import write_demo
from seg.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TINY = ["--image_size=32", "--depth=2", "--filters=2", "--epochs=2", "--batch_size=5", "--augmentation=flip"]


class Home:
    """A store, a workspace and an export, with one recorded training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.export = folder / "export"
        self.workspace = folder / "workspace"
        write_demo(self.export, train=2, valid=1, test=1)
        self.client = mlflow.MlflowClient(self.uri)
        self.trained = self.train(seed=3)

    def train(self, seed: int) -> str:
        given = [f"--data={self.export}", f"--workspace={self.workspace}", f"--seed={seed}", *TINY]
        assert train.main(given) == 0
        return self.newest()

    def reproduce(self, run_id: str, *more: str) -> int:
        return reproduce.main([f"--run={run_id}", f"--workspace={self.workspace}", *more])

    def newest(self) -> str:
        (experiment,) = self.client.search_experiments(filter_string="name = 'segmentation'")
        (run,) = self.client.search_runs(
            [experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1
        )
        return str(run.info.run_id)

    def artifact(self, run_id: str, path: str, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run_id, path, str(folder)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.chdir(folder)
        return Home(folder)


@pytest.fixture(autouse=True)
def at_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home.uri)
    monkeypatch.chdir(home.folder)


def test_the_same_model_again(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Without `data`: the dataset is in the workspace.
    assert home.reproduce(home.trained) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("The same: all 56 weight arrays and the scores of 2 epochs are equal bit for bit.")
    again = home.newest()
    run = home.client.get_run(again)
    assert again != home.trained
    assert (run.data.tags["reproduces"], run.data.tags["reproduced"]) == (home.trained, "yes")
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "3"
    assert last in run.data.tags["mlflow.note.content"].replace("\\", "")
    content = json.loads(home.artifact(again, "reproduction.json", tmp_path).read_text())
    assert content["same"] is True
    assert content["differences"] == []
    assert last in home.artifact(again, "reproduction.md", tmp_path).read_text()


def test_another_recorded_package_is_named_and_the_data_are_converted_again(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home.artifact(home.trained, "environment.json", tmp_path)
    kept = path.read_text()
    content = json.loads(kept)
    content["packages"]["numpy"] = "1.26.4"
    path.write_text(json.dumps(content))
    home.client.log_artifact(home.trained, str(path))
    shutil.rmtree(home.workspace / "datasets")
    assert home.reproduce(home.trained, f"--data={home.export}") == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("numpy ")]
    now = json.loads(kept)["packages"]["numpy"]
    assert row == ["numpy", "1.26.4", now, "pip", "install", "numpy==1.26.4"]
    assert lines[-1].endswith(f"What differs made no difference: numpy (1.26.4 then, {now} now).")
    path.write_text(kept)
    home.client.log_artifact(home.trained, str(path))


def test_the_model_of_another_seed_in_its_place(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = home.train(seed=4)
    kept = home.artifact(home.trained, "model.keras", tmp_path / "kept")
    home.client.log_artifact(home.trained, str(home.artifact(other, "model.keras", tmp_path / "other")))
    assert home.reproduce(home.trained) == 4
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("Not the same: ")
    assert "weight arrays differ by up to" in last
    assert last.endswith("model.keras of the run is not what that training left.")
    assert home.client.get_run(home.newest()).data.tags["reproduced"] == "no"
    home.client.log_artifact(home.trained, str(kept))


def test_other_data_are_refused_before_anything_is_trained(home: Home, tmp_path: Path) -> None:
    before = home.newest()
    write_demo(tmp_path / "other", train=1, valid=1, test=1)
    with pytest.raises(UserError, match=r"must have the run's key, .*: train has 10 images and had 20"):
        reproduce.main(
            [f"--run={home.trained}", f"--workspace={tmp_path / 'workspace'}", f"--data={tmp_path / 'other'}"]
        )
    assert home.newest() == before


def test_a_study_stands_for_its_best_trial(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--data={home.export}", f"--workspace={home.workspace}", "--loss=dice", *TINY, "--study=one"]
    assert study.main([*given, f"--storage=sqlite:///{home.folder / 'optuna.db'}"]) == 0
    parent = home.client.get_parent_run(best := capsys.readouterr().out.split()[-1])
    assert find_run(parent.info.run_id, Tracker(home.uri, None), tmp_path).record.run_id == best
    assert home.reproduce(parent.info.run_id) == 0
    assert home.client.get_run(home.newest()).data.tags["reproduces"] == best
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("The same: ")
