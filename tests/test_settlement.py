"""What a trial's end means, where the driver's tests would need luck with the clock."""

import io
from pathlib import Path
from typing import Any

import pytest

from experiments.command_line.progress import Progress
from experiments.jobs.messages import Job, JobEnded
from experiments.studies.settlement import Limits, Running, Settlement
from seg.config import TrainConfig
from seg.training.result import ModelCost
from tests import fake_tasks
from tests.recording_tracker import RecordingTracker


class RecordingStore:
    """Knows what became of trials."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def complete(self, number: int, val_dice: float, cost: ModelCost) -> None:
        self.calls.append(("complete", number, val_dice, cost.latency_ms))

    def requeue(self, number: int, deaths: int) -> None:
        self.calls.append(("requeue", number, deaths))


def running(folder: Path, progress: Progress, **changes: Any) -> Running:
    job = Job(name="trial 0", task="train", folder=str(folder), arguments={})
    config = TrainConfig(image_size=64, depth=3, epochs=3)
    progress.trial_started(0, config)
    return Running(number=0, config=config, run_id="run", job=job, deaths=0, logged=3, deadline=0.0, **changes)


@pytest.mark.parametrize("timed_out", [False, True])
def test_a_result_outweighs_a_deadline(tmp_path: Path, timed_out: bool) -> None:
    progress = Progress(io.StringIO())
    trial = running(tmp_path, progress, timed_out=timed_out)
    result = fake_tasks.run(trial.job, lambda report: True)
    store, tracker = RecordingStore(), RecordingTracker(tmp_path / "calls.jsonl")
    settlement = Settlement(store, tracker, progress, Limits(trial_timeout=1))  # type: ignore[arg-type]
    assert not settlement.settle(trial, JobEnded(job=trial.job, state="finished", result=result))
    assert store.calls == [("complete", 0, pytest.approx(0.508), 4.0)]


def test_a_deadline_without_a_result(tmp_path: Path) -> None:
    progress = Progress(io.StringIO())
    trial = running(tmp_path, progress, timed_out=True)
    store, tracker = RecordingStore(), RecordingTracker(tmp_path / "calls.jsonl")
    settlement = Settlement(store, tracker, progress, Limits(trial_timeout=1))  # type: ignore[arg-type]
    assert settlement.settle(trial, JobEnded(job=trial.job, state="cancelled", reason="cancelled"))
    assert store.calls == [("requeue", 0, 1)]
