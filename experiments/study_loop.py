"""The loop of a study: asks for trials, keeps the executor's slots full, and settles each trial in one place.

Of a trial's two records MLflow's is ended first, Optuna's second. A driver that dies between the two leaves a RUNNING
trial in Optuna, and the next driver settles both; the other order would leave a run RUNNING in MLflow for ever.
"""

import contextlib
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.executors.base import Executor
from experiments.interrupts import Interrupts
from experiments.jobs import Job, JobEnded, JobEvent, JobReported
from experiments.progress import Progress
from experiments.run_report import publish_training
from experiments.storage import StudyStore, TrialRow
from experiments.study_result import checkpoint_folder, trial_folder
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError
from seg.training.result import EpochReport

if TYPE_CHECKING:  # it imports MLflow, which the loop does not need
    from experiments.tracking import Tracker

INTERRUPTED = "interrupted"
_WAIT_SECONDS = 0.5
_MAX_REPEATS = 50
_OUT_OF_MEMORY = ("MemoryError", "ResourceExhausted", "out of memory")
_SAME_ERRORS = 2
"""So many trials with the same UserError, and no other outcome, and the study stops."""


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
class _Running:
    number: int
    config: TrainConfig
    run_id: str
    job: Job
    deaths: int
    logged: int  # the last epoch that MLflow has
    deadline: float
    stopped: bool = False
    timed_out: bool = False
    not_a_number_at: int | None = None


class StudyLoop:
    """Runs the trials of one study; used once.

    Args:
        study: the study's name.
        store: the study in Optuna's storage.
        tracker, parent_run: where runs are recorded, and the study's own run.
        executor: runs the trials.
        progress: tells a person.
        manifest: the dataset.
        workspace: holds the trials' folders.
        waiting: how many of the trials that wait go on; they come first.
        arms: what to train then: a grid's configurations in order, or None for as many trials as TPE may propose.
        limits: of each trial.
    """

    def __init__(
        self,
        *,
        study: str,
        store: StudyStore,
        tracker: "Tracker",
        parent_run: str,
        executor: Executor,
        progress: Progress,
        manifest: Manifest,
        workspace: Path,
        waiting: int,
        arms: Iterator[TrainConfig | None],
        limits: Limits,
    ) -> None:
        self._study = study
        self._store = store
        self._tracker = tracker
        self._parent_run = parent_run
        self._executor = executor
        self._progress = progress
        self._manifest = manifest
        self._workspace = workspace
        self._waiting = waiting
        self._arms = arms
        self._limits = limits
        self._running: dict[str, _Running] = {}
        self._outcomes: list[str | None] = []  # per ended trial: its UserError's message, None for any other outcome

    @property
    def ran(self) -> int:
        """Trials that ended so far."""
        return len(self._outcomes)

    def run(self, interrupts: Interrupts) -> None:
        """Runs trials until none is left to ask for, or an interrupt is requested (then all are settled).

        Raises:
            UserError: if trials fail with the same UserError and none does otherwise.
        """
        try:
            self._run(interrupts)
        except Exception as error:
            # The executor's end takes the processes. What cannot be settled now, the next driver settles.
            for running in self._running.values():
                with contextlib.suppress(Exception):
                    reason = f"the driver failed: {type(error).__name__}: {error}"
                    self._wait_for_next_attempt(running, running.deaths, reason)
            raise

    def _run(self, interrupts: Interrupts) -> None:
        while not interrupts.requested:
            while len(self._running) < self._executor.slots and not interrupts.requested and self._start_next():
                pass
            if not self._running:
                break
            for event in self._executor.wait(_WAIT_SECONDS):
                self._handle(event)
            self._stop_late_ones()
            if len(self._outcomes) >= _SAME_ERRORS:
                self._stop_on_same_error("other trials of the study failed with the same user error")
        if interrupts.requested:
            self._cancel_all(INTERRUPTED)
        else:
            self._stop_on_same_error("")

    def _start_next(self) -> bool:
        """Goes on with a trial that waits, or starts one that nobody trained yet; False if none is left."""
        while self._waiting:
            self._waiting -= 1
            if (row := self._store.resume()) is not None and self._go_on_with(row):
                return True
        for arm in self._arms:
            for _ in range(_MAX_REPEATS):
                row = self._store.ask(arm)
                same = self._store.same_as(row)
                if same is None:
                    assert row.config is not None
                    self._start(row.number, row.config)
                    return True
                # Failed trials neither count nor teach TPE anything; the repeat was not trained.
                self._store.fail(row.number, f"the same parameters as trial {same}: not trained again")
            self._progress.say(f"the last {_MAX_REPEATS} proposals were trained already: nothing new to try")
            return False
        return False

    def _go_on_with(self, row: TrialRow) -> bool:
        if row.config is None:
            self._store.fail(row.number, "put into the queue by somebody else: only trials of this program go on")
            return False
        try:
            run_id, logged = self._tracker.resume_trial(
                self._parent_run, self._study, row.number, row.config, self._manifest, row.run_id
            )
        except UserError as error:
            self._store.fail(row.number, str(error))
            self._progress.say(f"trial number {row.number} cannot go on: {error}")
            return False
        self._launch(row.number, row.config, run_id, deaths=row.deaths, logged=logged)
        return True

    def _start(self, number: int, config: TrainConfig) -> None:
        run_id = self._tracker.start_trial(self._parent_run, self._study, number, config, self._manifest)
        self._launch(number, config, run_id, deaths=0, logged=0)

    def _launch(self, number: int, config: TrainConfig, run_id: str, *, deaths: int, logged: int) -> None:
        self._store.set_run(number, run_id)
        folder = trial_folder(self._workspace, self._study, number, run_id)
        job = Job(
            name=f"trial {number}",
            task="train",
            folder=str(folder),
            arguments={
                "config": config.as_dict(),
                "dataset": str(self._manifest.folder.absolute()),
                "checkpoints": str(checkpoint_folder(folder)),
            },
        )
        deadline = time.monotonic() + (self._limits.trial_timeout or math.inf)
        self._running[job.name] = _Running(number, config, run_id, job, deaths, logged, deadline)
        self._progress.trial_started(number, config)
        self._executor.submit(job)

    def _handle(self, event: JobEvent) -> None:
        running = self._running[event.job.name]
        if isinstance(event, JobReported):
            go_on = self._goes_on(running, event.report)
            running.stopped = not go_on
            self._executor.answer(event.job, go_on)  # first: a slow tracking server must not hold up training
            if event.report.epoch > running.logged:
                self._tracker.log_epoch(running.run_id, event.report)
            self._progress.epoch(running.number, event.report)
        else:
            self._settle(running, event)
            del self._running[event.job.name]

    def _goes_on(self, running: _Running, report: EpochReport) -> bool:
        """Tells the storage of an epoch; whether to go on."""
        if not math.isfinite(report.val_dice):
            running.not_a_number_at = report.epoch
            return False
        go_on = self._store.report(running.number, report.epoch, report.val_dice)
        return go_on or report.epoch == running.config.epochs  # after its last epoch there is nothing left to prune

    def _settle(self, running: _Running, ended: JobEnded) -> None:
        """Decides a trial's fate."""
        if ended.died or running.timed_out:
            limit = f"took longer than trial_timeout, {self._limits.trial_timeout:g} s"
            self._try_again(running, limit if running.timed_out else ended.reason, ended.traceback)
        elif ended.state == "cancelled":
            self._fail(running, "cancelled", ended.reason)
        elif ended.state == "failed":
            self._fail(running, "failed", ended.reason, ended.traceback, user_error=ended.user_error)
        elif running.not_a_number_at is not None:
            self._fail(running, "failed", f"val_dice was not a finite number in epoch {running.not_a_number_at}")
        else:
            assert ended.result is not None
            self._succeed(running, ended.result)

    def _try_again(self, running: _Running, reason: str, traceback: str) -> None:
        """After the death of its process: another attempt from its last checkpoint, or the end of a poisonous trial."""
        deaths = running.deaths + 1
        if deaths > self._limits.retries:
            attempts = "" if deaths == 1 else f", in the last of {deaths} attempts"
            self._fail(running, "failed", reason + attempts, traceback)
            return
        self._wait_for_next_attempt(running, deaths, reason)
        self._waiting += 1
        self._progress.trial_waits(running.number, f"{reason}; attempt {deaths + 1} goes on from its last checkpoint")

    def _wait_for_next_attempt(self, running: _Running, deaths: int, reason: str) -> None:
        self._tracker.end(running.run_id, "waiting", reason)
        self._store.requeue(running.number, deaths)

    def _stop_late_ones(self) -> None:
        for running in self._running.values():
            if time.monotonic() > running.deadline and not running.timed_out:
                running.timed_out = True
                self._executor.cancel(running.job)

    def _succeed(self, running: _Running, result: dict[str, Any]) -> None:
        val_dice = float(result["val_dice"])
        if not math.isfinite(val_dice):
            self._fail(running, "failed", f"val_dice of the best epoch is {val_dice}")
            return
        publish_training(self._tracker, running.run_id, Path(running.job.folder), result)
        state: Literal["pruned", "finished"] = "pruned" if running.stopped else "finished"
        self._tracker.end(running.run_id, state)
        if running.stopped:
            self._store.prune(running.number)
        else:
            self._store.complete(running.number, val_dice)
        self._forget_checkpoints(running)
        self._outcomes.append(None)
        self._progress.trial_ended(running.number, state, val_dice, "")

    def _fail(
        self,
        running: _Running,
        state: Literal["failed", "cancelled"],
        reason: str,
        traceback: str = "",
        *,
        user_error: bool = False,
    ) -> None:
        if not user_error and any(sign in reason for sign in _OUT_OF_MEMORY):
            reason += f"; if memory is short, use a batch_size below {running.config.batch_size}"
        self._tracker.end(running.run_id, state, reason, traceback)
        self._store.fail(running.number, reason)
        self._forget_checkpoints(running)
        self._outcomes.append(reason.removeprefix("UserError: ") if user_error else None)
        where = "" if state == "cancelled" or user_error else f" ({Path(running.job.folder) / 'log.txt'})"
        self._progress.trial_ended(running.number, state, None, reason + where)

    def _forget_checkpoints(self, running: _Running) -> None:
        shutil.rmtree(checkpoint_folder(Path(running.job.folder)), ignore_errors=True)

    def _stop_on_same_error(self, reason: str) -> None:
        if self._outcomes and self._outcomes[0] is not None and len(set(self._outcomes)) == 1:
            error = self._outcomes[0]
            self._cancel_all(reason)
            raise UserError(error)

    def _cancel_all(self, reason: str) -> None:
        """Ends every running trial: after an interrupt it waits for the next command, else it failed for this reason."""
        for running in self._running.values():
            self._executor.cancel(running.job)
        while self._running:
            for event in self._executor.wait(_WAIT_SECONDS):
                running = self._running[event.job.name]
                if isinstance(event, JobEnded):
                    del self._running[event.job.name]
                    if reason == INTERRUPTED:
                        self._wait_for_next_attempt(running, running.deaths, reason)
                        self._progress.trial_waits(running.number, reason)
                    else:
                        self._fail(running, "cancelled", reason)
