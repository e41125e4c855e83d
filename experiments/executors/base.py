"""`Executor`: where jobs run. The driver does not know whether that is this machine or a cluster."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from experiments.jobs.messages import Job, JobEvent


class Executor(ABC):
    """Runs jobs in processes of their own. Used by one thread; a context manager that leaves no process behind."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Jobs that run at the same time."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Starts a job. The caller keeps at most `slots` jobs in flight."""

    @abstractmethod
    def wait(self, timeout: float) -> list[JobEvent]:
        """What happened since the last call, oldest first; returns at the first event or after `timeout` seconds."""

    @abstractmethod
    def answer(self, job: Job, go_on: bool) -> None:
        """Answers a `JobReported`: train on, or stop now and keep the best weights (the job then ends `finished`)."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """Ends a job's process, gently and then by force; a `JobEnded` with state `cancelled` follows."""

    @abstractmethod
    def close(self) -> None:
        """Ends every process that still runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
