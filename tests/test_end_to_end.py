"""Every entry point under a real `mlflow run`, on the demo dataset, as a user would start it."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
TINY = {"image_size": 32, "depth": 2, "filters": "4", "epochs": 2}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Home:
    """An empty folder from which a person starts commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.environment = os.environ | {
            "MLFLOW_TRACKING_URI": self.uri,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            self.environment.pop(name, None)

    def run(self, verb: str, **parameters: object) -> subprocess.CompletedProcess[str]:
        """`mlflow run -e VERB`, with this folder's stores."""
        if "workspace" in self.parameters(verb):
            parameters["workspace"] = self.folder / "workspace"
        if "storage" in self.parameters(verb):
            parameters["storage"] = f"sqlite:///{self.folder / 'optuna.db'}"
        command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local", "-e", verb]
        for name, value in parameters.items():
            command += ["-P", f"{name}={value}"]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def parameters(self, verb: str) -> set[str]:
        from tests.test_surface import PROJECT

        return set(PROJECT["entry_points"][verb]["parameters"])

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.uri, self.uri)

    def runs(self, filter_string: str) -> list[mlflow.entities.Run]:
        return list(self.client.search_runs(["0"], filter_string))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A folder in which `main` ran once on the demo, with two losses and two epochs."""
    home = Home(tmp_path_factory.mktemp("home"))
    done = home.run("main", **TINY, loss="bce,dice")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "registered: seg-unet version 1" in done.stdout
    assert "nearest image" in done.stdout
    return home


def test_main_leaves_one_parent_and_its_trials(home: Home) -> None:
    (parent,) = home.runs("tags.best_trial != ''")
    trials = home.runs(f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {run.data.params["loss"] for run in trials} == {"bce", "dice"}
    assert {run.info.status for run in [parent, *trials]} == {"FINISHED"}
    for run in trials:
        history = home.client.get_metric_history(run.info.run_id, "val_dice")
        assert [metric.step for metric in history] == [1, 2]
        names = {file.path for file in home.client.list_artifacts(run.info.run_id)}
        assert {"model.keras", "model_summary.txt", "panels", "learning_curves.png"} <= names
        (dataset,) = run.inputs.dataset_inputs
        assert run.data.tags["dataset_key"].startswith(dataset.dataset.digest)
    assert 0 <= parent.data.metrics["test_dice"] <= 1
    assert "report.html" in {file.path for file in home.client.list_artifacts(parent.info.run_id)}
    assert parent.data.metrics["test_baseline_all_background"] < 0.5


def test_the_champion_makes_masks_at_the_images_own_size(home: Home) -> None:
    image = np.full((70, 90, 3), 40, np.uint8)
    script = (
        "import sys, cv2, mlflow, numpy\n"
        "model = mlflow.pyfunc.load_model('models:/seg-unet@champion')\n"
        "found = model.predict({'image': [sys.stdin.buffer.read()]})\n"
        "print(cv2.imdecode(numpy.frombuffer(found.mask_png[0], 'uint8'), cv2.IMREAD_GRAYSCALE).shape)\n"
    )
    environment = {name: value for name, value in home.environment.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=home.folder,
        env=environment,
        input=cv2.imencode(".png", image)[1].tobytes(),
        capture_output=True,
        check=True,
    )
    assert found.stdout.decode().strip().endswith("(70, 90)")


def test_the_same_command_again_trains_and_registers_nothing(home: Home) -> None:
    before = len(home.runs("tags.trial != ''"))
    done = home.run("main", **TINY, loss="bce,dice")
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout + done.stderr
    assert "nothing to train" in done.stdout + done.stderr
    assert len(home.runs("tags.trial != ''")) == before
    assert [version.version for version in home.client.search_model_versions("name = 'seg-unet'")] == [1]


def test_the_version_has_a_card(home: Home) -> None:
    (version,) = home.client.search_model_versions("name = 'seg-unet'")
    names = {file.path for file in home.client.list_artifacts(version.run_id, "card")}
    assert {"card/card.html", "card/card.md", "card/threshold_curve.png", "card/calibration.png"} <= names
    assert "Not a medical device" in version.description


def test_promote_without_a_rival_leaves_the_champion(home: Home) -> None:
    done = home.run("promote")
    assert done.returncode == 0, done.stderr
    assert "seg-unet version 1: the champion already" in done.stdout
    assert str(home.client.get_model_version_by_alias("seg-unet", "champion").version) == "1"
    assert home.run("promote", rollback="yes").returncode != 0


def test_convert(home: Home) -> None:
    done = home.run("convert", image_size=32)
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout + done.stderr
    (folder,) = (home.folder / "workspace" / "datasets").glob("*/train_mask")
    mask = cv2.imread(str(sorted(folder.iterdir())[0]), cv2.IMREAD_GRAYSCALE)
    assert mask.shape == (32, 32)


def test_export_coco(home: Home) -> None:
    done = home.run("export_coco", image_size=32, output=home.folder / "coco", segmentation="polygon")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (home.folder / "coco" / "valid" / "_annotations.coco.json").is_file()


def test_audit(home: Home) -> None:
    done = home.run("audit", image_size=32, output=home.folder / "audit")
    assert done.returncode == 0, done.stderr
    assert "<html" in (home.folder / "audit" / "audit.html").read_text(encoding="utf-8")
    (parent,) = home.runs("tags.best_trial != ''")
    assert "audit" in {file.path for file in home.client.list_artifacts(parent.info.run_id)}


def test_train_then_evaluate_its_run(home: Home) -> None:
    done = home.run("train", **TINY, loss="bce_dice", learning_rate="1e-3")
    assert done.returncode == 0, done.stderr
    (run,) = home.runs("params.loss = 'bce_dice'")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["best_val_dice"] >= 0
    scored = home.run("evaluate", model=run.info.run_id, split="val")
    assert scored.returncode == 0, scored.stderr
    (evaluation,) = home.runs("params.split = 'val'")
    assert 0 <= evaluation.data.metrics["val_dice_own_size"] <= 1


def test_evaluate_the_champion_gives_the_scores_of_main(home: Home) -> None:
    done = home.run("evaluate")
    assert done.returncode == 0, done.stderr
    (parent,) = home.runs("tags.best_trial != ''")
    (evaluation,) = home.runs("params.split = 'test'")
    for name in ("test_dice", "test_dice_own_size", "test_threshold", "test_baseline_nearest_image"):
        assert evaluation.data.metrics[name] == pytest.approx(parent.data.metrics[name], abs=1e-6)


def test_study(home: Home) -> None:
    done = home.run("study", **TINY, loss="bce", study="second")
    assert done.returncode == 0, done.stderr
    (trial,) = home.runs("tags.study = 'second' and tags.trial = '0'")
    assert trial.info.status == "FINISHED"


def test_report(home: Home) -> None:
    done = home.run("report", output=home.folder / "report")
    assert done.returncode == 0, done.stderr
    page = (home.folder / "report" / "report.html").read_text(encoding="utf-8")
    assert "one seed per arm" in page
    assert "Least alike" in page
    assert f"--workspace={home.folder / 'workspace'}" in page
    assert (home.folder / "report" / "audit" / "audit.html").is_file()


def test_predict_names_the_broken_file_and_predicts_the_others(home: Home) -> None:
    images = home.folder / "images"
    images.mkdir()
    cv2.imwrite(str(images / "good.png"), np.full((50, 60, 3), 90, np.uint8))
    (images / "broken.jpg").write_text("<html>not found</html>")
    output = home.folder / "predictions"
    done = home.run("predict", images=images, output=output)
    assert done.returncode != 0
    assert "broken.jpg" in done.stderr
    assert cv2.imread(str(output / "masks" / "good.png"), cv2.IMREAD_GRAYSCALE).shape == (50, 60)
    assert (output / "overlays" / "good.png").is_file()


@pytest.mark.parametrize(
    ("verb", "parameters", "message"),
    [
        ("convert", {"data": "nowhere"}, "nowhere"),
        ("convert", {"categories": "unicorn"}, "unicorn"),
        ("train", {"image_size": 100}, "use 96 or 112"),
        ("train", {"batch_size": 0}, "batch_size must be at least 1"),
        ("study", {"study": "unet", "image_size": 64}, "another"),
        ("report", {"study": "unicorn", "storage": "sqlite:///nowhere.db"}, "storage must name a file that exists"),
        ("predict", {"images": "nowhere"}, "nowhere"),
        ("predict", {"images": ".", "model": "models:/unicorn@champion"}, "unicorn"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    home: Home, verb: str, parameters: dict[str, object], message: str
) -> None:
    flags = [f"--{name}={value}" for name, value in parameters.items()]
    if "workspace" in home.parameters(verb):
        flags.append(f"--workspace={home.folder / 'workspace'}")
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{verb}", *flags],
        cwd=home.folder,
        env=home.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr


def test_an_unreachable_server_is_one_line_and_exit_code_2(home: Home) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.study"],
        cwd=home.folder,
        env=home.environment | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "127.0.0.1:9" in done.stderr
