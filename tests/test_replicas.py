"""Training is the same on 1, 2 and 4 replicas: value, gradient, statistics, scores and number of images."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seg.config import LOSSES
from seg.training.replica_differences import agree
from tests.tiny import write_tiny

DEVICES = ("cpu:1", "cpu:2", "cpu:4")
VAL_IMAGES = 23  # odd, and no multiple of any batch or number of replicas
SEVERAL = ("bce_dice", "focal_tversky", "batch_dice")  # of two classes; bce and dice are in the first
# Four processes that trace two dozen models each: minutes on two cores that have other work.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def start(devices: str, dataset: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.replicas_worker", devices, str(dataset)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=1000)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every number of devices, and `again`, one device a second time: in processes side by side."""
    dataset = tmp_path_factory.mktemp("replicas")
    write_tiny(dataset, train=27, val=VAL_IMAGES)
    processes = {devices: start(devices, dataset) for devices in DEVICES} | {"again": start("cpu:1", dataset)}
    return {name: finish(process) for name, process in processes.items()}


@pytest.mark.parametrize("devices", DEVICES[1:])
class TestEqualToOneReplica:
    def test_the_devices_are_there(self, runs: dict[str, dict[str, Any]], devices: str) -> None:
        assert runs[devices]["replicas"] == int(devices[-1])
        assert runs["cpu:1"]["replicas"] == 1

    @pytest.mark.parametrize("loss", LOSSES)
    @pytest.mark.parametrize("quantity", ["loss", "gradient", "statistics", "val_loss", "val_dice"])
    def test_a_step_and_its_scores(
        self, runs: dict[str, dict[str, Any]], devices: str, loss: str, quantity: str
    ) -> None:
        many, one = (np.array(runs[name]["losses"][loss][quantity]) for name in (devices, "cpu:1"))
        assert np.any(one != 0)
        np.testing.assert_allclose(many, one, rtol=1e-4, atol=2e-6)
        assert agree(many, one)  # what `doctor` goes by

    @pytest.mark.parametrize("loss", SEVERAL)
    def test_a_step_and_its_scores_of_two_classes(
        self, runs: dict[str, dict[str, Any]], devices: str, loss: str
    ) -> None:
        many, one = (runs[name]["several"][loss] for name in (devices, "cpu:1"))
        for quantity in ("loss", "gradient", "statistics", "val_loss", "val_dice"):
            assert np.any(np.array(one[quantity]) != 0)
            np.testing.assert_allclose(many[quantity], one[quantity], rtol=1e-4, atol=2e-6)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_the_seeds_batch_of_10(self, runs: dict[str, dict[str, Any]], devices: str, loss: str) -> None:
        if devices == "cpu:4":  # 4 does not divide 10: the batch becomes 12, which the test above compares
            assert "at_10" not in runs[devices]["losses"][loss]
            return
        for quantity in ("loss", "gradient", "statistics"):
            many, one = (np.array(runs[name]["losses"][loss]["at_10"][quantity]) for name in (devices, "cpu:1"))
            assert np.any(one != 0)
            np.testing.assert_allclose(many, one, rtol=1e-4, atol=2e-6)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_every_image_is_evaluated_once(self, runs: dict[str, dict[str, Any]], devices: str, loss: str) -> None:
        assert runs[devices]["losses"][loss]["images"] == VAL_IMAGES
        assert runs["cpu:1"]["losses"][loss]["images"] == VAL_IMAGES

    def test_predictions_keep_the_order_of_the_records(self, runs: dict[str, dict[str, Any]], devices: str) -> None:
        many, one = (np.array(runs[name]["probabilities"]) for name in (devices, "cpu:1"))
        assert len(one) == VAL_IMAGES
        assert len(np.unique(one)) == VAL_IMAGES
        np.testing.assert_allclose(many, one, rtol=1e-4)

    def test_two_epochs_of_adam(self, runs: dict[str, dict[str, Any]], devices: str) -> None:
        # Adam divides small gradients by their own size, rounding errors too.
        np.testing.assert_allclose(runs[devices]["fit"], runs["cpu:1"]["fit"], rtol=2e-3)

    def test_two_epochs_of_the_whole_recipe(self, runs: dict[str, dict[str, Any]], devices: str) -> None:
        np.testing.assert_allclose(runs[devices]["recipe"], runs["cpu:1"]["recipe"], rtol=2e-3)

    @pytest.mark.parametrize("loss", ["bce", "batch_dice"])
    def test_the_gradient_is_clipped_as_a_whole(self, runs: dict[str, dict[str, Any]], devices: str, loss: str) -> None:
        many, one = (runs[name]["clipped"][loss] for name in (devices, "cpu:1"))
        assert np.linalg.norm(one["moments"]) == pytest.approx(0.1 * 0.01, rel=1e-4)
        np.testing.assert_allclose(many["moments"], one["moments"], rtol=1e-3, atol=1e-9)
        assert len(many["average"]) == len(one["average"])

    def test_a_loss_that_returns_a_scalar_is_found_out(self, runs: dict[str, dict[str, Any]], devices: str) -> None:
        many, one = (np.array(runs[name]["scalar"]["gradient"]) for name in (devices, "cpu:1"))
        assert np.linalg.norm(many) > 1.5 * np.linalg.norm(one)
        assert not agree(many, one)


def test_the_same_run_in_another_process_has_the_same_weights(runs: dict[str, dict[str, Any]]) -> None:
    assert runs["again"] == runs["cpu:1"]
