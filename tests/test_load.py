"""The load benchmark measures a real study: on small numbers, and on both kinds of databases."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from benchmarks import load


@pytest.fixture(autouse=True)
def handler_of_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def measured(output: Path, *options: str) -> dict[str, Any]:
    assert load.main([*options, f"--output={output}"]) == 0
    kept: dict[str, Any] = json.loads((output / "load.json").read_text(encoding="utf-8"))
    for point in kept["points"]:
        assert point["cpu_seconds"] > 0
        assert 0 < point["seconds"] < 60
        assert point["memory"] > 50 * 2**20
    assert cv2.imread(str(output / "load.png")).shape[1] == 1200
    return kept


@pytest.mark.slow
def test_every_trial_of_a_study_with_slots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = measured(tmp_path, "--database=sqlite", "--trials=16", "--slots=8")
    assert (kept["database"], kept["trials"], kept["slots"], kept["sampled"]) == ("sqlite", 16, 8, False)
    first, last = kept["points"]
    assert (first["trials"], last["trials"]) == (8, 16)
    assert last["optuna"] >= first["optuna"] > 50_000
    assert last["mlflow"] >= first["mlflow"] > 200_000
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)  # MLflow's server starts slowly on a busy machine
def test_a_sample_of_the_trials_on_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copies count for the study: it asks for the trials that come after them, and no others."""
    monkeypatch.setattr(load, "_SAMPLE", 4)
    kept = measured(tmp_path, "--trials=1000", "--sampled")
    # Beside 10, 100, 333 and 1000: one trial that is not measured, and four that are.
    assert [point["trials"] for point in kept["points"]] == [15, 105, 338, 1005]
    assert kept["points"][-1]["mlflow"] > kept["points"][0]["mlflow"] + 1_000_000


def test_a_sample_needs_postgresql(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load.main(["--sampled", "--database=sqlite"])
    assert "--sampled needs --database postgresql" in capsys.readouterr().err


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
