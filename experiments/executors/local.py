"""`LocalExecutor`: jobs on this machine, each in a process of its own."""

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.command_line.passwords import without_secrets
from experiments.executors.base import Executor
from experiments.executors.forking import Forks
from experiments.executors.process import WorkerProcess
from experiments.jobs.messages import Job, JobEnded, JobEvent, JobReported

GRACE_SECONDS = 5.0
"""What a cancelled process gets between SIGTERM and SIGKILL."""

TASKS = "experiments.jobs.tasks"

_POLL_SECONDS = 0.2


def thread_variables(threads: int) -> dict[str, str]:
    """What limits the threads of TensorFlow and NumPy in a process that has not started them; 0: no limit."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) if threads else {}


def local_forks(environment: Mapping[str, str] | None = None, tasks: str = TASKS) -> Forks:
    """Where jobs of this machine come from: a process with this one's variables, less what is secret, and more."""
    return Forks(tasks, without_secrets(os.environ) | dict(environment or {}))


class LocalExecutor(Executor):
    """Runs each job in a process and a process group of its own, in another session: Ctrl-C reaches the driver alone.

    What a job writes on stdout and stderr goes into `log.txt` in its folder.

    The processes are forked from one that has imported what all jobs need (`experiments.jobs.fork_server`), which takes
    seconds and happens once. Where that cannot be, each is a `python -m experiments.jobs.worker`, which imports it.

    Args:
        slots: jobs at the same time.
        gpus: the GPUs of each slot, as CUDA_VISIBLE_DEVICES has them (`("0,1", "2,3")`); empty: every job sees what
            the driver sees.
        threads: that each job may compute with; 0: as many as its libraries choose, which is one per core.
        environment: further variables of the jobs' processes.
        tasks: the module whose `run(job, report)` does the work; its `prepare()`, if any, is called ahead.
        ahead: a job is sure to come: what it needs is imported from now on.
        forks: of a caller that has several executors, one after the other: what jobs need is imported once for all
            of them. It decides tasks and environment, and the caller closes it.
    """

    def __init__(
        self,
        slots: int,
        *,
        gpus: Sequence[str] = (),
        threads: int = 0,
        environment: Mapping[str, str] | None = None,
        tasks: str = TASKS,
        ahead: bool = False,
        forks: Forks | None = None,
    ) -> None:
        if gpus and len(gpus) != slots:
            raise ValueError(f"gpus must name the GPUs of each of the {slots} slots, got {len(gpus)}.")
        self._slots = slots
        self._free_gpus = list(gpus)
        self._threads = thread_variables(threads)
        self._forks = forks or local_forks(environment, tasks)
        self._forks_are_shared = forks is not None
        self._processes: dict[str, WorkerProcess] = {}
        self._stillborn: list[JobEvent] = []
        self._selector = selectors.DefaultSelector()
        if ahead:
            self._forks.ahead()

    @property
    def slots(self) -> int:
        return self._slots

    def submit(self, job: Job) -> None:
        gpus = self._free_gpus.pop(0) if self._free_gpus else None
        try:
            Path(job.folder).mkdir(parents=True, exist_ok=True)
            process = self._start(job, gpus)
        except OSError as error:
            self._give_back(gpus)
            self._stillborn.append(JobEnded(job=job, state="failed", reason=f"could not be started: {error}"))
            return
        self._processes[job.name] = process
        for file in process.files:
            self._selector.register(file, selectors.EVENT_READ)

    def _start(self, job: Job, gpus: str | None) -> WorkerProcess:
        variables = self._threads | ({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})
        forks = self._forks
        if forks.possible:
            with contextlib.suppress(OSError):  # the server died this moment, or there can be none
                return WorkerProcess(job, gpus, forks.tasks, variables, forks.server())
        return WorkerProcess(job, gpus, forks.tasks, forks.environment | variables, None)

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
        elif time.monotonic() - process.cancelled_at > GRACE_SECONDS:
            process.signal(signal.SIGKILL)
        if process.at_end and process.incoming in self._selector.get_map():
            self._selector.unregister(process.incoming)  # a pipe at its end is always ready: select would spin
        if process.has_exited():
            began = process.began or process.cancelled_at is not None
            if began:
                events.append(process.ending())
            self._forget(process)
            if not began:  # the server must not fork, or failed: what is wrong, a process of the job's own will tell
                self._forks.possible = False
                self.submit(process.job)
        return events

    def _forget(self, process: WorkerProcess) -> None:
        for file in process.files:
            if file in self._selector.get_map():
                self._selector.unregister(file)
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
        if not self._forks_are_shared:
            self._forks.close()
        self._selector.close()
