import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from seg import serving_graph as serving
from seg.serving_graph import ServingGraph
from seg.training import speed
from seg.training.result import EpochReport, ModelCost, TrainResult
from seg.training.speed import measure_cost, measure_speed

ROOT = Path(__file__).parent.parent


def test_speed_is_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS", 0.01)
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(1, 3)])
    found = measure_speed(model, np.zeros((5, 16, 16, 3), np.uint8))
    assert found.batch_size == 5
    assert found.images_per_second > 0
    assert found.latency_ms > 0
    assert found.machine == f"{speed.machine()}, TensorFlow"


def test_the_median_of_at_least_three_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 5.0, 5.0, 6.0, 6.0, 15.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(times))
    calls: list[int] = []
    assert speed._median_seconds(lambda: calls.append(1)) == 5.0  # of 5, 1 and 9
    assert len(calls) == 4  # the first one is not counted


def test_a_machine_without_proc_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **details: object) -> str:
        raise OSError

    monkeypatch.setattr(speed.Path, "read_text", refuse)
    assert "core" in speed.machine()


def result(*images_per_second: float) -> TrainResult:
    history = tuple(
        EpochReport(epoch=epoch, train_loss=1.0, val_loss=1.0, val_dice=0.5, images_per_second=speed, seconds=1.0)
        for epoch, speed in enumerate(images_per_second, start=1)
    )
    return TrainResult(
        stop_reason="epochs",
        best_epoch=1,
        val_dice=0.5,
        parameters=28,
        replicas=1,
        batch_size=5,
        model="model.keras",
        history=history,
    )


def test_cost_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_median_seconds", lambda call: 0.25)
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(1, 3)])
    image = np.zeros((16, 16, 3), np.uint8)
    # 14×14 pixels of output, 3×3 of 3 channels each. The first epoch warms up; of 10 and 30, the median is 20.
    expected = ModelCost(parameters=28, multiply_adds=14 * 14 * 27, latency_ms=250.0, images_per_second=20.0)
    assert measure_cost(model, image, result(2.0, 10.0, 30.0)) == expected
    assert measure_cost(model, image, result(2.0)).images_per_second == 2.0  # better than nothing


@pytest.mark.parametrize("of_a_trial", [True, False])
def test_what_is_measured_is_what_is_served(of_a_trial: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[tuple[int, ...]] = []

    def serving_graph(model: keras.Model) -> ServingGraph:
        served = serving.serving_graph(model)

        def compute(images: np.ndarray) -> np.ndarray:
            batches.append(images.shape)
            assert images.dtype == np.uint8
            return served(images)

        return replace(served, compute=compute)

    monkeypatch.setattr(speed, "_SECONDS", 0.01)
    monkeypatch.setattr(speed, "serving_graph", serving_graph)
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(1, 3)])
    images = np.zeros((5, 16, 16, 3), np.uint8)
    if of_a_trial:
        assert measure_cost(model, images[0], result(1.0)).latency_ms > 0
    else:
        assert measure_speed(model, images).latency_ms > 0
    assert set(batches) == {(1, 16, 16, 3)} | (set() if of_a_trial else {(5, 16, 16, 3)})


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_model_of_two_replicas(precision: str) -> None:
    """In a process of its own: logical devices can be chosen once per process."""
    script = f"""
import numpy as np
from seg.config import TrainConfig
from seg.models import build_model
from seg.training import speed
from seg.training.devices import make_strategy
speed._SECONDS = 0.01
with make_strategy("cpu:2").scope():
    model = build_model(TrainConfig(image_size=16, depth=1, filters=2, precision="{precision}"))
print(speed.measure_speed(model, np.zeros((5, 16, 16, 3), np.uint8)).latency_ms > 0)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
