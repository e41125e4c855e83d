"""`LocalExecutor`: jobs on this machine, each in a fresh process."""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.command_line.passwords import without_secrets
from experiments.executors.base import Executor
from experiments.executors.process import LOG, WorkerProcess
from experiments.jobs.messages import Job, JobEnded, JobEvent, JobReported

GRACE_SECONDS = 5.0
"""What a cancelled process gets between SIGTERM and SIGKILL."""

_POLL_SECONDS = 0.2


def thread_variables(threads: int) -> dict[str, str]:
    """What limits the threads of TensorFlow and NumPy in a process that has not started them; 0: no limit."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) if threads else {}


class LocalExecutor(Executor):
    """Runs each job as `python -m experiments.jobs.worker`, in a session of its own: Ctrl-C reaches the driver alone.

    What a job writes on stdout and stderr goes into `log.txt` in its folder.

    With `spares`, a process for the next job is started when a job has reported for the first time: while that
    one trains, it imports TensorFlow, which takes seconds, and waits. It has the slot's GPUs, and does not touch them.

    Args:
        slots: jobs at the same time.
        gpus: the GPUs of each slot, as CUDA_VISIBLE_DEVICES has them (`("0,1", "2,3")`); empty: every job sees what
            the driver sees.
        threads: that each job may compute with; 0: as many as its libraries choose, which is one per core.
        environment: further variables of the jobs' processes.
        tasks: the module whose `run(job, report)` does the work; its `prepare()`, if any, is called ahead.
        spares: whether a next job is likely.
    """

    def __init__(
        self,
        slots: int,
        *,
        gpus: Sequence[str] = (),
        threads: int = 0,
        environment: Mapping[str, str] | None = None,
        tasks: str = "experiments.jobs.tasks",
        spares: bool = False,
    ) -> None:
        if gpus and len(gpus) != slots:
            raise ValueError(f"gpus must name the GPUs of each of the {slots} slots, got {len(gpus)}.")
        self._slots = slots
        self._free_gpus = list(gpus)
        self._variables = thread_variables(threads) | dict(environment or {})
        self._tasks = tasks
        self._keeps_spares = spares
        self._spares: list[WorkerProcess] = []
        self._processes: dict[str, WorkerProcess] = {}
        self._stillborn: list[JobEvent] = []
        self._selector = selectors.DefaultSelector()

    @property
    def slots(self) -> int:
        return self._slots

    def submit(self, job: Job) -> None:
        gpus = self._free_gpus.pop(0) if self._free_gpus else None
        try:
            Path(job.folder).mkdir(parents=True, exist_ok=True)
            with (Path(job.folder) / LOG).open("ab") as log:  # an attempt before may have written to it
                process = self._take_spare(gpus) or self._start(gpus, log.fileno())
        except OSError as error:
            self._give_back(gpus)
            self._stillborn.append(JobEnded(job=job, state="failed", reason=f"could not be started: {error}"))
            return
        self._processes[job.name] = process
        self._selector.register(process.incoming, selectors.EVENT_READ, process)
        process.give(job)

    def _start(self, gpus: str | None, log: int = subprocess.DEVNULL) -> WorkerProcess:
        environment = without_secrets(os.environ) | self._variables
        if gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpus
        return WorkerProcess(self._tasks, environment, gpus, log)

    def _take_spare(self, gpus: str | None) -> WorkerProcess | None:
        """A process that waits with these GPUs and lives."""
        for spare in [spare for spare in self._spares if spare.gpus == gpus]:
            self._spares.remove(spare)
            if not spare.has_exited():
                return spare
            spare.close()
        return None

    def _add_spare(self, gpus: str | None) -> None:
        with contextlib.suppress(OSError):  # no spare, then
            self._spares.append(self._start(gpus))

    def wait(self, timeout: float) -> list[JobEvent]:
        deadline = time.monotonic() + timeout
        while True:
            events, self._stillborn = self._stillborn, []
            for process in list(self._processes.values()):
                events += self._events_of(process)
            left = deadline - time.monotonic()
            if events or left <= 0:
                return events
            # A process that dies while its child holds the pipe open shows only in its exit code: look again soon.
            self._selector.select(min(left, _POLL_SECONDS))

    def _events_of(self, process: WorkerProcess) -> list[JobEvent]:
        events: list[JobEvent] = []
        if process.cancelled_at is None:
            reports = process.read_reports()
            events += [JobReported(job=process.job, report=report) for report in reports]
            if self._keeps_spares and reports and not process.reported:
                process.reported = True
                self._add_spare(process.gpus)
        elif time.monotonic() - process.cancelled_at > GRACE_SECONDS:
            process.signal(signal.SIGKILL)
        if process.at_end and process.incoming in self._selector.get_map():
            self._selector.unregister(process.incoming)  # a pipe at its end is always ready: select would spin
        if process.has_exited():
            events.append(process.ending())
            self._forget(process)
        return events

    def _forget(self, process: WorkerProcess) -> None:
        if process.incoming in self._selector.get_map():
            self._selector.unregister(process.incoming)
        process.close()
        self._give_back(process.gpus)
        del self._processes[process.job.name]

    def _give_back(self, gpus: str | None) -> None:
        if gpus is not None:
            self._free_gpus.append(gpus)

    def answer(self, job: Job, go_on: bool) -> None:
        if job.name in self._processes:  # else it died meanwhile; its JobEnded is told already
            self._processes[job.name].send({"go_on": go_on})

    def cancel(self, job: Job) -> None:
        process = self._processes.get(job.name)
        if process is not None and process.cancelled_at is None:
            process.cancelled_at = time.monotonic()
            process.signal(signal.SIGTERM)

    def close(self) -> None:
        for process in list(self._processes.values()):
            process.signal(signal.SIGKILL)
            process.wait()
            self._forget(process)
        while self._spares:
            spare = self._spares.pop()
            spare.signal(signal.SIGKILL)
            spare.wait()
            spare.close()
        self._selector.close()
