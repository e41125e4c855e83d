"""Two classes from an export to masks of files: `main`, then everything that people do with its model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pytest

import seg
from experiments import evaluate, predict, report
from experiments.registry.registry import Registry
from seg.data.demo import write_demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `main` was run on patients with tumors and others with cysts."""
    folder = tmp_path_factory.mktemp("classes")
    write_demo(folder / "export", train=4, valid=2, test=2)
    options = "--data=export --classes=all --image_size=32 --filters=4 --depth=2 --epochs=2 --loss=bce_dice"
    options += " --tta=flips --largest_component=yes --model_name=parts"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    ran = subprocess.run(
        [sys.executable, "-m", "experiments.main", *options.split()],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.fixture
def uri(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def test_the_run_has_the_scores_of_each_class(uri: str) -> None:
    model = Registry(uri).find("models:/parts@champion")
    assert model.classes == "tumor,cyst"
    run = mlflow.MlflowClient(uri, uri).get_run(model.run_id)
    assert run.data.tags["classes"] == "tumor,cyst"
    names = {"test_dice", "test_dice_tumor", "test_dice_cyst", "test_dice_cyst_low", "test_dice_cyst_high"}
    assert names <= set(run.data.metrics)
    assert "test_threshold" not in run.data.metrics
    evaluation = json.loads(next(Path("workspace").rglob("final*/evaluation.json")).read_text())
    assert (evaluation["threshold"], evaluation["largest_component"]) == (None, "yes")
    # The mean over an image's classes, over images: from the table of images, once more.
    table = next(Path("workspace").rglob("final*/per_image.csv")).read_text().splitlines()
    columns = table[0].split(",")
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in table[1:]]
    by_class = np.array([[float(row["dice_tumor"]), float(row["dice_cyst"])] for row in rows])
    there = ~np.isnan(by_class)
    expected = np.where(there.any(1), np.nansum(by_class, 1) / np.maximum(1, there.sum(1)), 1)
    assert run.data.metrics["test_dice"] == pytest.approx(expected.mean())
    assert run.data.metrics["test_dice_cyst"] == pytest.approx(np.nanmean(by_class[:, 1]))


def test_evaluate_says_the_same(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the classes, the mirror images and the components of the model, none of which is given."""
    assert evaluate.main(["--data=export", "--model=models:/parts@champion"]) == 0
    run_id = capsys.readouterr().out.split("run ")[1].partition(";")[0]
    client = mlflow.MlflowClient(uri, uri)
    again, first = (client.get_run(run).data.metrics for run in (run_id, Registry(uri).newest("parts").run_id))
    for name in ("test_dice", "test_dice_own_size", "test_dice_tumor"):
        assert again[name] == pytest.approx(first[name], abs=1e-6), name


def test_masks_of_files_are_those_of_the_registered_model(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert predict.main(["--images=export/test", "--model=models:/parts@champion"]) == 0
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow puts the model's own code before the project's
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/parts@champion")
    paths = sorted(Path("export/test").glob("*.png"))[:3]
    rows = model.predict({"image": [path.read_bytes() for path in paths]})
    fetched = mlflow.artifacts.download_artifacts(artifact_uri="models:/parts@champion", dst_path="champion")
    loaded = seg.load(fetched)
    assert loaded.classes == ("tumor", "cyst")
    trial = seg.load(next(Path("workspace").rglob("trial_*/model.keras")).parent)
    assert trial.classes == ("tumor", "cyst")
    for path, (_, row) in zip(paths, rows.iterrows(), strict=True):
        mask = cv2.imread(f"predictions/masks/{path.name}", cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(row["mask_png"], np.uint8), -1), mask)
        np.testing.assert_array_equal(loaded.predict(path).mask, mask)
        assert json.loads(row["areas"]) == {"tumor": int((mask == 1).sum()), "cyst": int((mask == 2).sum())}
    entries = json.loads(Path("predictions/results.json").read_text())
    assert {entry["category_id"] for entry in entries} <= {1, 2}


def test_the_report_names_the_classes(uri: str) -> None:
    assert report.main([]) == 0
    page = Path("report/report.html").read_text(encoding="utf-8")
    assert "By class, over the images in which it is there or predicted: tumor " in page
    assert "another class" in page
