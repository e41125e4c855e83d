"""The load benchmark measures a real study: on small numbers, and on both kinds of databases."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from benchmarks import load


@pytest.mark.slow
@pytest.mark.timeout(900)  # MLflow's server starts slowly on a busy machine
@pytest.mark.parametrize(("database", "slots"), [("sqlite", 1), ("postgresql", 64)])
def test_a_small_study(database: str, slots: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = 12 if slots == 1 else 128
    assert load.main([f"--database={database}", f"--trials={trials}", f"--slots={slots}", f"--output={tmp_path}"]) == 0
    kept = json.loads((tmp_path / "load.json").read_text(encoding="utf-8"))
    assert (kept["database"], kept["trials"], kept["slots"]) == (database, trials, slots)
    points = kept["points"]
    assert [point["trials"] for point in points] == (list(range(1, 13)) if slots == 1 else [64, 128])
    assert all(point["cpu_seconds"] > 0 and 0 < point["seconds"] < 60 for point in points)
    assert all(point["memory"] > 50 * 2**20 for point in points)
    assert points[-1]["optuna"] >= points[0]["optuna"] > 50_000
    assert points[-1]["mlflow"] >= points[0]["mlflow"] > 200_000
    assert len(capsys.readouterr().out.splitlines()) == len(points)
    assert cv2.imread(str(tmp_path / "load.png")).shape[1] == 1200


def test_the_meter_takes_medians_and_leaves_its_own_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def sizes() -> dict[str, int]:
        clock[0] += 1000
        return {"optuna": 1, "mlflow": 2}

    monkeypatch.setattr(load.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(load.time, "process_time", lambda: clock[0] / 2)
    points: list[load.Point] = []
    keep: Callable[[load.Point], None] = points.append
    meter = load.Meter(every=3, slots=1, sizes=sizes, keep=keep)
    for seconds in (1, 2, 9, 3, 3, 4):
        clock[0] += seconds
        meter.trial_ended()
    assert [(point.trials, point.seconds) for point in points] == [(3, 2), (6, 3)]
    assert [point.cpu_seconds for point in points] == [
        2,
        pytest.approx(10 / 6),
    ]  # half of 12 and of 10 s, 3 trials each


def test_side_by_side_trials_are_timed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(load.time, "perf_counter", lambda: clock[0])
    points: list[load.Point] = []
    meter = load.Meter(every=1, slots=2, sizes=lambda: {"optuna": 1, "mlflow": 2}, keep=points.append)
    for seconds in (4, 0, 0, 6):
        clock[0] += seconds
        meter.trial_ended()
    assert [(point.trials, point.seconds) for point in points] == [(2, 2), (4, 3)]
