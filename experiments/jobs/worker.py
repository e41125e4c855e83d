"""A job's process: reads one job, runs its task, sends what happens. Started by an executor, never by a person.

    python -m experiments.jobs.worker MODULE READ_FD WRITE_FD

Messages are JSON, one per line, on pipes of their own, because libraries write on stdout and stderr as they please:

    in    {...}, the job; then, after each report, {"go_on": true or false}
    out   {"report": {...}} for every epoch, and one {"finished": {...}} or {"failed": {...}} at the end

The end of the incoming pipe means that the driver is gone. The process then ends too: nobody would hear the result.
"""

import ctypes
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from typing import Any, TextIO

from experiments.jobs.messages import Job
from seg.errors import UserError
from seg.training.result import EpochReport

_PR_SET_PDEATHSIG = 1


class Connection:
    """The worker's end of the two pipes."""

    def __init__(self, incoming: TextIO, outgoing: TextIO) -> None:
        self._outgoing = outgoing
        self._received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(incoming,), daemon=True).start()

    def _listen(self, incoming: TextIO) -> None:
        for line in incoming:
            self._received.put(json.loads(line))
        os._exit(1)

    def send(self, message: dict[str, Any]) -> None:
        self._outgoing.write(json.dumps(message) + "\n")
        self._outgoing.flush()

    def receive(self) -> Any:
        return self._received.get()

    def report(self, report: EpochReport) -> bool:
        """Sends an epoch's report and waits for the verdict: True to train on."""
        self.send({"report": asdict(report)})
        return bool(self.receive()["go_on"])


def run(module: str, connection: Connection) -> None:
    """Runs the task of the job that arrives on the connection and sends how it ended.

    What the task needs is imported before, unless `fork_server`, of which this process then is a copy, has done so.
    """
    failed = prepare(module)
    job = Job(**connection.receive())
    try:
        if failed is not None:
            raise failed
        connection.send({"finished": importlib.import_module(module).run(job, connection.report)})
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        connection.send(
            {
                "failed": {
                    "reason": f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__,
                    "traceback": traceback.format_exc(),
                    "user_error": isinstance(error, UserError),
                }
            }
        )


def prepare(module: str) -> Exception | None:
    """Imports the tasks and, if they have a `prepare`, calls it; returns what that raised, for the job to tell."""
    try:
        getattr(importlib.import_module(module), "prepare", lambda: None)()
    except Exception as error:
        return error
    return None


def end_with_parent() -> None:
    """Asks Linux to kill this process when its parent dies, also while a library holds every Python thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(module: str, read_fd: int, write_fd: int) -> None:
    end_with_parent()
    for fd in (read_fd, write_fd):
        os.set_inheritable(fd, False)  # a process that the task starts must not keep the pipes open
    with os.fdopen(write_fd, "w", encoding="utf-8") as outgoing:
        run(module, Connection(os.fdopen(read_fd, encoding="utf-8"), outgoing))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the result is sent: no library's clean-up may hang or crash the process now


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
