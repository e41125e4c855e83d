"""How a trial ends, or goes on: every trial's fate is decided and recorded here.

Of a trial's two records MLflow's is ended first, Optuna's second. A driver that dies between the two leaves a RUNNING
trial in Optuna, and the next driver goes on with it; the other order would leave a run RUNNING in MLflow for ever.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.command_line.progress import Progress
from experiments.jobs.memory_shortage import with_remedy
from experiments.jobs.messages import Job, JobEnded
from experiments.storage.study_store import StudyStore
from experiments.studies.study_result import checkpoint_folder
from experiments.tracking.run_report import publish_training
from seg.config import TrainConfig
from seg.errors import UserError
from seg.training.result import ModelCost

if TYPE_CHECKING:  # it imports MLflow, which a study does not need
    from experiments.tracking.tracker import Tracker


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a trial may cost.

    Attributes:
        retries: attempts after the first, each from the last checkpoint, when a trial's process dies or takes too long.
        trial_timeout: seconds that one attempt may take; 0: as long as it likes.

    Raises:
        UserError: if one is negative or no number.
    """

    retries: int = 2
    trial_timeout: float = 0

    def __post_init__(self) -> None:
        for name in ("retries", "trial_timeout"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number of at least 0, got {getattr(self, name)}.")


@dataclass
class Running:
    """A trial that a job works on.

    Attributes:
        number, config, run_id, job: the trial, and what records and trains it.
        deaths: how many of its processes died before.
        logged: the last epoch that MLflow has.
        deadline: when it has taken too long; `time.monotonic()`.
        stopped, timed_out: whether it was told to stop, and whether it was ended at the deadline.
        not_a_number_at: the epoch whose val_dice was none.
    """

    number: int
    config: TrainConfig
    run_id: str
    job: Job
    deaths: int
    logged: int
    deadline: float
    stopped: bool = False
    timed_out: bool = False
    not_a_number_at: int | None = None


class Settlement:
    """Ends trials, and lets those wait that go on.

    Args:
        store: the study in Optuna's storage.
        tracker: where runs are recorded.
        progress: tells a person.
        limits: of each trial.

    Attributes:
        outcomes: of each trial that ended: its UserError's message, None for any other outcome.
    """

    def __init__(self, store: StudyStore, tracker: "Tracker", progress: Progress, limits: Limits) -> None:
        self._store = store
        self._tracker = tracker
        self._progress = progress
        self._limits = limits
        self.outcomes: list[str | None] = []

    def settle(self, running: Running, ended: JobEnded) -> bool:
        """Decides a trial's fate once its job ended; returns whether it waits for another attempt."""
        if ended.died or (running.timed_out and ended.state != "finished"):
            limit = f"took longer than trial_timeout, {self._limits.trial_timeout:g} s"
            return self._try_again(running, limit if running.timed_out else ended.reason, ended.traceback)
        if ended.state == "cancelled":
            self.fail(running, "cancelled", ended.reason)
        elif ended.state == "failed":
            self.fail(running, "failed", ended.reason, ended.traceback, user_error=ended.user_error)
        elif running.not_a_number_at is not None:
            self.fail(running, "failed", f"val_dice was not a finite number in epoch {running.not_a_number_at}")
        else:
            assert ended.result is not None
            self._succeed(running, ended.result)
        return False

    def _try_again(self, running: Running, reason: str, traceback: str) -> bool:
        """After the death of its process: another attempt from its last checkpoint, or the end of a poisonous trial."""
        deaths = running.deaths + 1
        if deaths > self._limits.retries:
            attempts = "" if deaths == 1 else f", in the last of {deaths} attempts"
            self.fail(running, "failed", reason + attempts, traceback)
            return False
        self.requeue(running, reason, deaths)
        self._progress.trial_waits(running.number, f"{reason}; attempt {deaths + 1} goes on from its last checkpoint")
        return True

    def requeue(self, running: Running, reason: str, deaths: int | None = None) -> None:
        """Lets a trial wait, whatever it has trained so far kept; `deaths` when there is one more."""
        self._tracker.end(running.run_id, "waiting", reason)
        self._store.requeue(running.number, running.deaths if deaths is None else deaths)

    def _succeed(self, running: Running, result: dict[str, Any]) -> None:
        val_dice = float(result["val_dice"])
        if not math.isfinite(val_dice):
            self.fail(running, "failed", f"val_dice of the best epoch is {val_dice}")
            return
        cost = ModelCost(**result["cost"])
        publish_training(self._tracker, running.run_id, Path(running.job.folder), result)
        state: Literal["pruned", "finished"] = "pruned" if running.stopped else "finished"
        self._tracker.end(running.run_id, state)
        if running.stopped:
            self._store.prune(running.number, cost)
        else:
            self._store.complete(running.number, val_dice, cost)
        self._forget_checkpoints(running)
        self.outcomes.append(None)
        self._progress.trial_ended(running.number, state, val_dice, "")

    def fail(
        self,
        running: Running,
        state: Literal["failed", "cancelled"],
        reason: str,
        traceback: str = "",
        *,
        user_error: bool = False,
    ) -> None:
        """Ends a trial without a score."""
        if not user_error:
            reason = with_remedy(reason, traceback, running.config.batch_size)
        self._tracker.end(running.run_id, state, reason, traceback)
        self._store.fail(running.number, reason)
        self._forget_checkpoints(running)
        self.outcomes.append(reason.removeprefix("UserError: ") if user_error else None)
        where = "" if state == "cancelled" or user_error else f" ({Path(running.job.folder) / 'log.txt'})"
        self._progress.trial_ended(running.number, state, None, reason + where)

    def _forget_checkpoints(self, running: Running) -> None:
        shutil.rmtree(checkpoint_folder(Path(running.job.folder)), ignore_errors=True)
