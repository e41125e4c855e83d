"""`ForkedProcess`: a job's process that a fork server makes, for the executor that asked for it."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.jobs.fork_server import VARIABLES

_PROJECT = Path(__file__).parents[2]


def can_fork() -> bool:
    """Whether this system has what a fork server needs. (A library of macOS may not survive a fork.)"""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # Python or the kernel is too old, or a sandbox forbids it
        return False
    return True


def start_python(
    module: str, arguments: Sequence[str], environment: dict[str, str], files: Sequence[int], log: int
) -> "subprocess.Popen[bytes]":
    """Starts a module of this project in a session of its own: Ctrl-C reaches the driver alone.

    Args:
        files: open ones that it inherits.
        log: an open file for what it writes.

    Raises:
        OSError: if it cannot be started.
    """
    path = [str(_PROJECT), environment.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
        pass_fds=files,
        start_new_session=True,
    )


class ForkServerProcess:
    """A running `experiments.jobs.fork_server`; it imports while the caller goes on.

    Args:
        tasks: module of the tasks.
        environment: variables of its process, and so of all jobs' processes.

    Raises:
        OSError: if it cannot be started.
    """

    def __init__(self, tasks: str, environment: dict[str, str]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                arguments = [tasks, str(theirs.fileno())]
                self._process = start_python(
                    "experiments.jobs.fork_server",
                    arguments,
                    environment | VARIABLES,
                    (theirs.fileno(),),
                    subprocess.DEVNULL,
                )
            except OSError:
                self._requests.close()
                raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_exited(self) -> bool:
        return self._process.poll() is not None

    def fork(self, variables: dict[str, str], incoming: int, outgoing: int, log: int) -> "ForkedProcess":
        """A process for a job, as soon as everything is imported.

        Args:
            variables: of its environment, beside the server's.
            incoming, outgoing, log: open files of the worker.

        Raises:
            OSError: if the server is gone.
        """
        read, write = os.pipe()
        try:
            socket.send_fds(self._requests, [json.dumps(variables).encode()], [incoming, outgoing, write, log])
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        return ForkedProcess(read)

    def close(self) -> None:
        """Ends the server and, with it, whatever it forked."""
        self._requests.close()
        self._process.kill()
        self._process.wait()


class Forks:
    """The fork server of one executor, or of several that come one after the other; each job's process comes from it.

    Args:
        tasks: module of the tasks.
        environment: variables of its process, and so of all jobs' processes.
    """

    def __init__(self, tasks: str, environment: dict[str, str]) -> None:
        self.tasks = tasks
        self.environment = environment
        self.possible = can_fork()
        self._server: ForkServerProcess | None = None

    def ahead(self) -> None:
        """A job is sure to come: what it needs is imported from now on."""
        if self.possible:
            with contextlib.suppress(OSError):  # the first job imports for itself, then
                self.server()

    def server(self) -> ForkServerProcess:
        """The one that lives, or a new one.

        Raises:
            OSError: if it cannot be started.
        """
        if self._server is not None and self._server.has_exited():
            self.close()
        if self._server is None:
            self._server = ForkServerProcess(self.tasks, self.environment)
        return self._server

    def close(self) -> None:
        """Ends the server and, with it, whatever it forked."""
        if self._server is not None:
            self._server.close()
            self._server = None


class ForkedProcess:
    """What `subprocess.Popen` is for a child of one's own.

    Attributes:
        returncode: as Popen has it; None while it runs, and while it waits to be forked.
        status: becomes ready to read when that changes.
    """

    def __init__(self, status: int) -> None:
        self.returncode: int | None = None
        self.status = status
        self._told = b""
        self._pid: int | None = None
        os.set_blocking(status, False)

    @property
    def began(self) -> bool:
        """Whether it was forked."""
        self.poll()
        return self._pid is not None

    @property
    def pid(self) -> int:
        """Its number, once it began."""
        assert self._pid is not None
        return self._pid

    def give_up(self, number: int) -> None:
        """Ends the wait for the fork, as if a signal had ended it; a process that comes yet finds its pipes closed."""
        self.returncode = -number

    def poll(self) -> int | None:
        """The exit code, once it is gone."""
        while self.returncode is None:
            try:
                told = os.read(self.status, 64)
            except BlockingIOError:
                break
            self._told += told
            numbers = [int(line) for line in self._told.split(b"\n")[:-1]]
            self._pid = numbers[0] if numbers else None
            if len(numbers) == 2:
                self.returncode = numbers[1]
            elif not told:  # the server is dead, and what it forked ends with it
                self.returncode = -signal.SIGKILL
        return self.returncode

    def wait(self) -> None:
        while self.poll() is None:
            select.select([self.status], [], [])

    def close(self) -> None:
        os.close(self.status)
