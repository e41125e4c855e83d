"""What the driver asks of a job's process, and what it hears back. Plain data: crosses processes and machines as JSON.

A job's process talks to neither Optuna nor MLflow. It reads a job, reports epochs, hears after each report
whether to go on, and leaves files in the job's folder; the driver alone writes to Optuna and MLflow.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seg.training.result import EpochReport


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work for one process.

    Attributes:
        name: unique among the jobs in flight; for people (`trial 3`).
        task: `train` (a TrainConfig), `evaluate` (score a trained model on a split), `speed` (measure training),
            or `replicas` (for `doctor`).
        folder: absolute path where the job leaves its files.
        arguments: the task's own arguments, JSON-serialisable; see experiments/jobs/tasks.py.
    """

    name: str
    task: Literal["train", "evaluate", "speed", "replicas"]
    folder: str
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class JobReported:
    """A training job finished an epoch and waits for `Executor.answer`."""

    job: Job
    report: EpochReport


@dataclass(frozen=True, kw_only=True)
class JobEnded:
    """A job is over; exactly one per submitted job.

    Attributes:
        state: `finished`; `failed` (it raised, was killed, ran out of memory); `cancelled` (by `Executor.cancel`).
        result: what the task returned (`TrainResult` or the evaluation, as a dict), when finished.
        reason: one line for people, when not finished: `killed by SIGKILL (out of memory?)`, `UserError: …`.
        traceback: of a task that raised, else the end of the process's log; empty when finished.
        user_error: the task raised UserError: the request was wrong, not the machine.
        died: its process ended without saying how: killed, crashed, out of memory. Another attempt may succeed.
    """

    job: Job
    state: Literal["finished", "failed", "cancelled"]
    result: dict[str, Any] | None = None
    reason: str = ""
    traceback: str = ""
    user_error: bool = False
    died: bool = False


JobEvent = JobReported | JobEnded


def epoch_picture(folder: Path, epoch: int) -> Path:
    """Where a training job leaves the picture of an epoch that was the best so far."""
    return folder / "epochs" / f"epoch_{epoch:05}.png"
