"""`WorkerProcess`: one job's process, seen from the executor, and what its end means."""

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.executors.forking import ForkedProcess, ForkServerProcess, start_python
from experiments.jobs.messages import Job, JobEnded
from seg.training.result import EpochReport

LOG = "log.txt"
_LOG_TAIL_BYTES = 8192


class WorkerProcess:
    """A running `experiments.jobs.worker` with its job, and what it sends.

    Args:
        job: what it works on; its folder exists.
        gpus: the GPUs that it holds, for the executor's books.
        tasks: module of the tasks.
        environment: variables of the process, beside those of the server where there is one.
        server: forks it; None: it is started, and imports what its tasks need.

    Raises:
        OSError: if the process cannot be started, or the server is gone.
    """

    def __init__(
        self, job: Job, gpus: str | None, tasks: str, environment: dict[str, str], server: ForkServerProcess | None
    ) -> None:
        self.job = job
        self.gpus = gpus
        self.cancelled_at: float | None = None
        self.at_end = False
        self._log = Path(job.folder) / LOG
        self._buffer = b""
        self._outcome: JobEnded | None = None
        self._garbage: str | None = None
        self._process: subprocess.Popen[bytes] | ForkedProcess
        self.incoming, worker_writes = os.pipe()
        worker_reads, self._outgoing = os.pipe()
        pipes = worker_reads, worker_writes
        try:
            with self._log.open("ab") as log:  # an attempt before may have written to it
                if server is None:
                    arguments = [tasks, *map(str, pipes)]
                    worker = "experiments.jobs.worker"
                    self._process = start_python(worker, arguments, environment, pipes, log.fileno())
                else:
                    self._process = server.fork(environment, *pipes, log.fileno())
        except OSError:
            os.close(self.incoming)
            os.close(self._outgoing)
            raise
        finally:
            os.close(worker_reads)
            os.close(worker_writes)
        os.set_blocking(self.incoming, False)
        self.send(asdict(job))

    @property
    def files(self) -> tuple[int, ...]:
        """What becomes ready to read when something happened."""
        return (self.incoming, self._process.status) if isinstance(self._process, ForkedProcess) else (self.incoming,)

    @property
    def began(self) -> bool:
        """Whether there is, or was, a process; one may still have to be forked."""
        return not isinstance(self._process, ForkedProcess) or self._process.began

    def send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died: its exit code tells
            os.write(self._outgoing, json.dumps(message).encode() + b"\n")

    def signal(self, number: signal.Signals) -> None:
        """Signals the process and those that it started; one that is still to be forked is given up."""
        if isinstance(self._process, ForkedProcess) and not self._process.began:
            self._process.give_up(number)
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def wait(self) -> None:
        self._process.wait()

    def close(self) -> None:
        """Closes the pipes and ends what the process left running."""
        if self.began:
            self.signal(signal.SIGKILL)
        os.close(self.incoming)
        os.close(self._outgoing)
        if isinstance(self._process, ForkedProcess):
            self._process.close()

    def read_reports(self) -> list[EpochReport]:
        """The reports that arrived; keeps the outcome for `ending`. A process that sends garbage is killed."""
        reports = []
        for line in self._read_lines():
            try:
                message = json.loads(line)
                if "report" in message:
                    reports.append(EpochReport(**message["report"]))
                else:
                    self._outcome = self._read_outcome(message)
            except (ValueError, TypeError, KeyError, RecursionError):
                self._garbage = f"sent something that is not a message: {line[:80]!r}"
                self.signal(signal.SIGKILL)
                break
        return reports

    def _read_outcome(self, message: dict[str, Any]) -> JobEnded:
        if "finished" in message:
            return JobEnded(job=self.job, state="finished", result=dict(message["finished"]))
        return JobEnded(job=self.job, state="failed", **message["failed"])

    def _read_lines(self) -> list[bytes]:
        while not self.at_end:
            try:
                chunk = os.read(self.incoming, 65536)
            except BlockingIOError:
                break
            self.at_end = not chunk
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        return lines

    def has_exited(self) -> bool:
        """Whether the process is gone; one that sent its outcome is gone soon."""
        return self._process.poll() is not None

    def ending(self) -> JobEnded:
        """How the job ended; after `has_exited`."""
        self.read_reports()  # what it sent between the last look and its exit
        if self._garbage is None and self._outcome is not None and self._outcome.state == "finished":
            return self._outcome  # whatever it was told meanwhile: the work is done
        if self.cancelled_at is not None:
            return JobEnded(job=self.job, state="cancelled", reason="cancelled")
        if self._garbage is not None:
            return JobEnded(job=self.job, state="failed", reason=self._garbage, traceback=self._log_tail(), died=True)
        if self._outcome is not None:
            return self._outcome
        return JobEnded(job=self.job, state="failed", reason=self._death(), traceback=self._log_tail(), died=True)

    def _death(self) -> str:
        """Why a process that sent no outcome is gone."""
        code = self._process.poll()
        assert code is not None
        if code >= 0:
            return f"exited with code {code} before it returned"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")

    def _log_tail(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")
