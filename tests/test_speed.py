import keras
import numpy as np
import pytest

from seg.training import speed
from seg.training.speed import measure_speed


def test_speed_is_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS", 0.01)
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(1, 3)])
    found = measure_speed(model, np.zeros((5, 16, 16, 3), np.uint8))
    assert found.batch_size == 5
    assert found.images_per_second > 0
    assert found.latency_ms > 0
    assert found.machine == speed.machine() != ""


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
