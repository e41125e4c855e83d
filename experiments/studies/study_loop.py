"""The loop of a study: asks for trials, keeps the executor's slots full, and has each trial settled."""

import contextlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line.interrupts import Interrupts
from experiments.command_line.progress import Progress
from experiments.executors.base import Executor
from experiments.jobs.messages import Job, JobEnded, JobEvent, JobReported
from experiments.storage.stored_study import TrialRow
from experiments.storage.study_store import StudyStore
from experiments.studies.settlement import Limits, Running, Settlement
from experiments.studies.study_result import checkpoint_folder, trial_folder
from experiments.studies.trial_queue import TrialQueue
from experiments.tracking.run_report import publish_epoch
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError
from seg.training.result import EpochReport

if TYPE_CHECKING:  # it imports MLflow, which the loop does not need
    from experiments.tracking.tracker import Tracker

INTERRUPTED = "interrupted"
_WAIT_SECONDS = 0.5
_SAME_ERRORS = 2
"""So many trials with the same UserError, and no other outcome, and the study stops."""


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
        queue: what to train.
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
        queue: TrialQueue,
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
        self._queue = queue
        self._limits = limits
        self._settlement = Settlement(store, tracker, progress, limits)
        self._running: dict[str, Running] = {}
        self._stays = False

    @property
    def ran(self) -> int:
        """Trials that ended so far."""
        return len(self._settlement.outcomes)

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
                    self._settlement.requeue(running, reason)
            raise

    def _run(self, interrupts: Interrupts) -> None:
        while not interrupts.requested:
            started = len(self._running) < self._executor.slots and self._start_next()
            if not self._running and self._is_over():
                break
            # Between two starts too: what already trains must not wait until many slots are filled.
            for event in self._executor.wait(0.0 if started else _WAIT_SECONDS):
                self._handle(event)
            self._stop_late_ones()
            if len(self._settlement.outcomes) >= _SAME_ERRORS:
                self._stop_on_same_error("other trials of the study failed with the same user error")
        if interrupts.requested:
            self._cancel_all(INTERRUPTED)
        else:
            self._stop_on_same_error("")

    def _is_over(self) -> bool:
        """Whether nothing is left for this driver; one that has nothing to start stays while others run trials."""
        others = self._queue.elsewhere
        if others and not self._stays:
            self._stays = True
            self._progress.say(
                f"nothing left to start, while other drivers run {others} trial(s): this one waits, and goes on with "
                "theirs if they die (Ctrl-C leaves; nothing is lost)"
            )
        return not others

    def _start_next(self) -> bool:
        """Goes on with a trial that waits, or starts one that nobody trained yet; False if there is none now."""
        while (taken := self._queue.take()) is not None:
            if self._go_on_with(taken.row) if taken.resumed else self._start(taken.row):
                return True
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

    def _start(self, row: TrialRow) -> bool:
        assert row.config is not None
        run_id = self._tracker.start_trial(self._parent_run, self._study, row.number, row.config, self._manifest)
        self._launch(row.number, row.config, run_id, deaths=0, logged=0)
        return True

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
        self._running[job.name] = Running(number, config, run_id, job, deaths, logged, deadline)
        self._progress.trial_started(number, config)
        self._executor.submit(job)

    def _handle(self, event: JobEvent) -> None:
        running = self._running[event.job.name]
        if isinstance(event, JobReported):
            go_on = self._goes_on(running, event.report)
            running.stopped = not go_on
            self._executor.answer(event.job, go_on)  # first: a slow tracking server must not hold up training
            if event.report.epoch > running.logged:
                publish_epoch(self._tracker, running.run_id, Path(event.job.folder), event.report)
            self._progress.epoch(running.number, event.report)
        else:
            self._settlement.settle(running, event)
            del self._running[event.job.name]
            self._queue.look_again()

    def _goes_on(self, running: Running, report: EpochReport) -> bool:
        """Tells the storage of an epoch; whether to go on."""
        if not math.isfinite(report.val_dice):
            running.not_a_number_at = report.epoch
            return False
        go_on = self._store.report(running.number, report.epoch, report.val_dice)
        return go_on or report.epoch == running.config.epochs  # after its last epoch there is nothing left to prune

    def _stop_late_ones(self) -> None:
        for running in self._running.values():
            if time.monotonic() > running.deadline and not running.timed_out:
                running.timed_out = True
                self._executor.cancel(running.job)

    def _stop_on_same_error(self, reason: str) -> None:
        outcomes = self._settlement.outcomes
        if outcomes and (error := outcomes[0]) is not None and len(set(outcomes)) == 1:
            self._cancel_all(reason)
            raise UserError(error)

    def _cancel_all(self, reason: str) -> None:
        """Ends every running trial: an interrupted one waits for the next command, any other has failed."""
        for running in self._running.values():
            self._executor.cancel(running.job)
        while self._running:
            for event in self._executor.wait(_WAIT_SECONDS):
                running = self._running[event.job.name]
                if isinstance(event, JobEnded):
                    del self._running[event.job.name]
                    if reason == INTERRUPTED:
                        self._settlement.requeue(running, reason)
                        self._progress.trial_waits(running.number, reason)
                    else:
                        self._settlement.fail(running, "cancelled", reason)
