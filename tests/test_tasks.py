import csv
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest

from experiments.jobs.environment import Environment
from experiments.jobs.messages import Job, epoch_picture
from experiments.jobs.split_predictions import SplitPredictions
from experiments.jobs.tasks import panel_images, run
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError
from seg.training.devices import make_strategy
from seg.training.evaluation import predict_split
from seg.training.result import EpochReport
from seg.training.validation import ValidationScore
from tests.tiny import write_tiny

CONFIG = TrainConfig(image_size=16, depth=1, filters=2, batch_size=5, epochs=2).as_dict()
BASELINES = {"all_background": 0.2, "best_constant": 0.3, "nearest_image": 0.4}


def read_table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def evaluate_job(folder: Path, model: Path, manifest: Manifest, **changes: Any) -> Job:
    arguments = {"model": str(model), "dataset": str(manifest.folder), "split": "test", "threshold": None} | changes
    return Job(name="evaluation", task="evaluate", folder=str(folder), arguments=arguments)


@pytest.fixture(scope="module")
def trained(tiny: Manifest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[EpochReport]]:
    folder = tmp_path_factory.mktemp("job") / "trial"
    reports: list[EpochReport] = []
    arguments = {"config": CONFIG, "dataset": str(tiny.folder)}
    result = run(
        Job(name="trial 0", task="train", folder=str(folder), arguments=arguments),
        lambda report: reports.append(report) or True,
    )
    return folder, result, reports


@pytest.fixture(autouse=True)
def known_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.jobs.tasks.baselines", lambda manifest, split: BASELINES)


class TestTrain:
    def test_result_is_plain_data(self, trained: tuple[Path, dict[str, Any], list[EpochReport]]) -> None:
        _, result, reports = trained
        assert json.loads(json.dumps(result))["stop_reason"] == "epochs"
        assert len(reports) == len(result["history"]) == 2

    def test_cost(self, trained: tuple[Path, dict[str, Any], list[EpochReport]]) -> None:
        folder, result, reports = trained
        cost = result["cost"]
        assert json.loads((folder / "result.json").read_text(encoding="utf-8"))["cost"] == cost
        assert cost["parameters"] == result["parameters"]
        assert cost["images_per_second"] == reports[1].images_per_second
        # filters 2, depth 1, 16×16: as in test_cost.py, with four times the pixels.
        assert cost["multiply_adds"] == 4 * (64 * 9 * 10 + 16 * 9 * 24 + 64 * 8 + 64 * 9 * 12 + 64 * 2)
        assert 0 < cost["latency_ms"] < 60_000

    def test_files(self, trained: tuple[Path, dict[str, Any], list[EpochReport]]) -> None:
        folder, result, reports = trained
        assert (folder / result["model"]).exists()
        assert "encoder_0_convolution_1" in (folder / "model_summary.txt").read_text(encoding="utf-8")
        rows = read_table(folder / "history.csv")
        assert [int(row["epoch"]) for row in rows] == [1, 2]
        assert float(rows[1]["val_dice"]) == reports[1].val_dice

    def test_the_environment_is_that_of_the_process(
        self, trained: tuple[Path, dict[str, Any], list[EpochReport]]
    ) -> None:
        found = Environment.read((trained[0] / "environment.json").read_text(encoding="utf-8"))
        assert found.devices == ("CPU",)
        assert found.threads.keys() == {"intra_op", "inter_op"}
        assert {"seg/losses.py", "seg/training/fit.py", "experiments/jobs/tasks.py"} <= found.code.keys()
        assert found.cores >= 1
        assert found.cpu

    def test_panels(self, trained: tuple[Path, dict[str, Any], list[EpochReport]]) -> None:
        panels = sorted((trained[0] / "panels").iterdir())
        kinds = {"fixed": 4, "best": 3, "worst": 3}
        expected = sorted(f"{kind}_{number}.png" for kind, count in kinds.items() for number in range(count))
        assert [path.name for path in panels] == expected
        assert all(cv2.imread(str(path)) is not None for path in panels)

    def test_pictures_of_the_best_epochs(
        self, trained: tuple[Path, dict[str, Any], list[EpochReport]], tiny: Manifest
    ) -> None:
        folder, result, reports = trained
        best = [
            report.epoch
            for report in reports
            if all(report.val_dice > before.val_dice for before in reports[: report.epoch - 1])
        ]
        assert sorted(path.name for path in (folder / "epochs").iterdir()) == [f"epoch_0000{n}.png" for n in best]
        picture = cv2.imread(str(epoch_picture(folder, result["best_epoch"])))
        assert picture.shape[1] > 4 * tiny.image_size  # image, truth, prediction, difference

    def test_predictions(self, trained: tuple[Path, dict[str, Any], list[EpochReport]], tiny: Manifest) -> None:
        folder, result, _ = trained
        found = SplitPredictions.load(folder / "val_predictions.npz")
        assert (len(found.dice), found.image_size, found.dataset_key) == (7, 16, tiny.key)
        assert found.dice.mean() == pytest.approx(result["val_dice"], abs=1e-6)
        assert json.loads((folder / "result.json").read_text(encoding="utf-8")) == json.loads(json.dumps(result))


class TestTheBestModel:
    """Predictions are those of the file, though the model of the best epoch is still in memory."""

    @staticmethod
    def script_dice(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
        remaining = iter(values)

        def score(self: Any) -> ValidationScore:
            return ValidationScore(loss=1.0, dice=next(remaining), images=7)

        monkeypatch.setattr("seg.training.validation.Validation.__call__", score)

    @staticmethod
    def train(folder: Path, manifest: Manifest, report: Any = lambda report: True, **options: Any) -> dict[str, Any]:
        config = CONFIG | {"epochs": 3, "patience": 0, "learning_rate": 0.05} | options
        arguments = {"config": config, "dataset": str(manifest.folder), "checkpoints": str(folder / "checkpoints")}
        return run(Job(name="trial 0", task="train", folder=str(folder), arguments=arguments), report)

    @staticmethod
    def check(folder: Path, manifest: Manifest) -> None:
        model = keras.models.load_model(folder / "model.keras", compile=False, safe_mode=True)
        probabilities = predict_split(model, manifest, "val", 5, make_strategy("auto"))
        expected = SplitPredictions.of(manifest.records("val"), probabilities, 0.5, manifest.key)
        found = SplitPredictions.load(folder / "val_predictions.npz")
        np.testing.assert_array_equal(found.packed, expected.packed)
        np.testing.assert_array_equal(found.dice, expected.dice)

    @pytest.mark.parametrize("ema", [0.0, 0.9])
    def test_later_epochs_leave_it(
        self, tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float
    ) -> None:
        self.script_dice(monkeypatch, 0.5, 0.9, 0.3)
        assert self.train(tmp_path, tiny, ema=ema)["best_epoch"] == 2
        self.check(tmp_path, tiny)

    def test_an_attempt_before_had_it(self, tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.script_dice(monkeypatch, 0.9, 0.5, 0.3)

        def interrupt(report: EpochReport) -> bool:
            if report.epoch == 2:
                raise KeyboardInterrupt
            return True

        with pytest.raises(KeyboardInterrupt):
            self.train(tmp_path, tiny, interrupt)
        assert self.train(tmp_path, tiny)["best_epoch"] == 1
        self.check(tmp_path, tiny)


class TestEvaluate:
    def test_tuned(
        self, trained: tuple[Path, dict[str, Any], list[EpochReport]], tiny: Manifest, tmp_path: Path
    ) -> None:
        result = run(evaluate_job(tmp_path, trained[0] / "model.keras", tiny), lambda report: True)
        assert json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8")) == result
        assert 0.05 <= result["threshold"] <= 0.95
        assert (result["examples"], result["empty"], result["baselines"]) == (5, 1, BASELINES)
        assert set(result["scores"]["dice"]) == {"mean", "low", "high"}
        assert (result["split"], result["split_key"]) == ("test", tiny.splits["test"].key)
        curve = result["threshold_curve"]
        assert max(curve["val"]) - curve["val"][curve["thresholds"].index(result["threshold"])] < 1e-6
        place = curve["thresholds"].index(result["threshold"])
        assert curve["test"][place] == pytest.approx(result["scores"]["dice"]["mean"], abs=1e-6)
        # 5 images of 16×16 pixels but for the ignored corner of 2×2.
        assert sum(part["pixels"] for part in result["calibration"]["bins"]) == 5 * 256 - 4
        assert [part["images"] for part in result["by_size"]] == [2, 1, 1]
        assert result["by_group"] == []
        assert result["speed"]["batch_size"] == 5
        rows = read_table(tmp_path / "per_image.csv")
        assert [row["file_name"] for row in rows] == [f"test/{index}.png" for index in range(5)]
        assert np.mean([float(row["dice"]) for row in rows]) == pytest.approx(result["scores"]["dice"]["mean"])
        assert (tmp_path / "panels" / "worst_0.png").exists()
        predictions = SplitPredictions.load(tmp_path / "test_predictions.npz")
        assert predictions.dice.tolist() == pytest.approx([float(row["dice"]) for row in rows])

    def test_a_given_threshold_is_used(
        self, trained: tuple[Path, dict[str, Any], list[EpochReport]], tiny: Manifest, tmp_path: Path
    ) -> None:
        job = evaluate_job(tmp_path, trained[0] / "model.keras", tiny, threshold=0.3)
        result = run(job, lambda report: True)
        assert result["threshold"] == 0.3
        assert set(result["threshold_curve"]) == {"thresholds", "test"}  # validation was not needed

    def test_a_split_that_is_not_there(
        self, trained: tuple[Path, dict[str, Any], list[EpochReport]], tiny: Manifest, tmp_path: Path
    ) -> None:
        job = evaluate_job(tmp_path, trained[0] / "model.keras", tiny, split="holdout")
        with pytest.raises(UserError, match="the evaluation needs images in the holdout split"):
            run(job, lambda report: True)

    def test_a_registered_threshold_is_checked_before_the_test_split_is_used(
        self,
        trained: tuple[Path, dict[str, Any], list[EpochReport]],
        tiny: Manifest,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        used: list[str] = []
        monkeypatch.setattr("seg.training.evaluation.evaluate", lambda *arguments: used.append("test"))
        monkeypatch.setattr("experiments.jobs.tasks.best_threshold", lambda curve: 0.5)
        job = evaluate_job(tmp_path, trained[0] / "model.keras", tiny, registered_threshold=0.45)
        with pytest.raises(
            UserError, match="threshold must stay 0.45, with which the model is registered, .* gives 0.5 here"
        ):
            run(job, lambda report: True)
        assert used == []

    def test_a_dataset_of_another_size(
        self, trained: tuple[Path, dict[str, Any], list[EpochReport]], tmp_path: Path
    ) -> None:
        from tests.tiny import write_tiny

        other = write_tiny(tmp_path / "other", image_size=8)
        job = evaluate_job(tmp_path, trained[0] / "model.keras", other)
        with pytest.raises(
            UserError, match=r"takes images of 16 pixels, .* converted at image_size 8; convert the data"
        ):
            run(job, lambda report: True)


def test_the_environment_names_the_format_of_the_checkpoint(
    tiny: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` means another format on the machine that goes on."""
    config = CONFIG | {"precision": "auto"}
    arguments = {"config": config, "dataset": str(tiny.folder), "checkpoints": str(tmp_path / "checkpoints")}
    job = Job(name="trial 0", task="train", folder=str(tmp_path / "trial"), arguments=arguments)
    for means in ("float32", "mixed_bfloat16"):
        monkeypatch.setattr(
            "seg.training.fit.with_chosen_precision",
            lambda config, means=means: replace(config, precision=means) if config.precision == "auto" else config,
        )
        run(job, lambda report: True)
        assert json.loads((tmp_path / "trial" / "environment.json").read_text())["precision"] == "float32"


class TestPanelImages:
    def test_fixed_images_are_spread_over_those_with_foreground(self) -> None:
        masks = np.zeros((10, 2, 2), np.uint8)
        masks[[1, 2, 3, 5, 6, 8, 9]] = 1
        chosen = panel_images(masks, [0.5] * 10)
        # Seven images with foreground, places 0, 2, 4 and 6 of them.
        assert [chosen[f"fixed_{number}"] for number in range(4)] == [1, 3, 6, 9]

    def test_best_and_worst(self) -> None:
        chosen = panel_images(np.ones((5, 2, 2), np.uint8), [0.3, 0.9, 0.1, 0.5, 0.7])
        assert [chosen[f"best_{number}"] for number in range(3)] == [1, 4, 3]
        assert [chosen[f"worst_{number}"] for number in range(3)] == [2, 0, 3]

    def test_fewer_images_than_panels(self) -> None:
        chosen = panel_images(np.zeros((1, 2, 2), np.uint8), [1.0])
        assert chosen == {"fixed_0": 0, "best_0": 0, "worst_0": 0}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_tiny(tmp_path_factory.mktemp("two"), classes=2)


class TestSeveralClasses:
    def test_trained_and_scored(self, two: Manifest, tmp_path: Path) -> None:
        arguments = {"config": CONFIG | {"epochs": 1}, "dataset": str(two.folder)}
        folder = tmp_path / "trial"
        job = Job(name="trial 0", task="train", folder=str(folder), arguments=arguments)
        run(job, lambda report: True)
        assert json.loads((folder / "settings.json").read_text())["classes"] == ["a", "b"]
        predicted = SplitPredictions.load(folder / "val_predictions.npz")
        assert (predicted.classes, predicted.mask(0).max() <= 2) == (2, True)
        found = run(evaluate_job(tmp_path, folder / "model.keras", two, largest_component="yes"), lambda report: True)
        assert (found["threshold"], found["threshold_curve"], found["classes"]) == (None, {}, ["a", "b"])
        rows = read_table(tmp_path / "per_image.csv")
        assert list(rows[0])[-3:] == ["group", "dice_a", "dice_b"]

    def test_a_model_of_one_class(
        self, two: Manifest, tmp_path: Path, trained: tuple[Path, dict[str, Any], list[EpochReport]]
    ) -> None:
        job = evaluate_job(tmp_path, trained[0] / "model.keras", two)
        with pytest.raises(
            UserError, match="must give 3 logits per pixel for the classes a, b, got 1; convert the data"
        ):
            run(job, lambda report: True)

    def test_a_threshold(self, two: Manifest, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="threshold must not be given for 2 classes, .* got 0.5; leave it out"):
            run(evaluate_job(tmp_path, tmp_path / "model.keras", two, threshold=0.5), lambda report: True)


def test_the_age_of_a_process_counts_from_its_start() -> None:
    code = "import time; time.sleep(0.5); from experiments.jobs.tasks import process_age; print(process_age())"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # To a clock tick, not to a second.
    assert 0.5 < float(done.stdout) < time.monotonic() - started + 0.1
