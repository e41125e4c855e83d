"""Imports once what jobs need, then forks a process for each of them. Started by an executor, never by a person.

    python -m experiments.jobs.fork_server MODULE SOCKET_FD

A request on the socket is a JSON object, the environment variables of one job's process, with the files of `FILES`. Two
lines go to its status pipe: the number of the process, and what it ended with (an exit code, or minus a signal).

A fork copies one thread and no device, so this process computes nothing: where an import has started a thread or opened
a GPU, it ends without having forked anything, and each job imports for itself. TensorFlow's own tests fork likewise
(tensorflow/python/distribute/multi_process_lib.py).
"""

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys

from experiments.jobs import worker

FILES = ("incoming", "outgoing", "status", "log")
VARIABLES = {
    # Each would start threads when it is imported: the linear algebra of NumPy, SciPy and OpenCV, Arrow's allocator.
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri", "/dev/dxg")
_REQUEST_BYTES = 65536


def is_safe_to_fork() -> bool:
    """Whether this process has one thread, and no GPU open."""
    threads = os.listdir("/proc/self/task")
    return len(threads) == 1 and not any(target.startswith(_DEVICES) for target in _open_files())


def _open_files() -> list[str]:
    targets = []
    for name in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the listing's own
            continue
    return targets


class ForkServer:
    """Forks at each request, and tells how each process ended.

    Args:
        module: of the tasks, imported already.
        requests: the socket.
    """

    def __init__(self, module: str, requests: socket.socket) -> None:
        self._module = module
        self._requests = requests
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ)
        self._running: dict[int, tuple[int, int]] = {}

    def serve(self) -> None:
        """Returns when the executor has closed the socket."""
        while True:
            for key, _ in self._selector.select():
                if key.fd != self._requests.fileno():
                    self._tell_end(key.fd)
                elif not self._take_request():
                    return

    def _take_request(self) -> bool:
        request, files, _, _ = socket.recv_fds(self._requests, _REQUEST_BYTES, len(FILES))
        if not request:
            return False
        incoming, outgoing, status, log = files
        server = os.getpid()
        try:
            number = os.fork()
        except OSError:  # the pipe's end says that there is none; the executor starts one
            for file in files:
                os.close(file)
            return True
        if number == 0:
            self._become_worker(json.loads(request), server, incoming, outgoing, status, log)
        for file in (incoming, outgoing, log):
            os.close(file)
        # Here too: the executor may signal the group as soon as it is told.
        with contextlib.suppress(OSError):  # it has ended, or done so itself
            os.setpgid(number, number)
        try:
            ends = os.pidfd_open(number)
            self._selector.register(ends, selectors.EVENT_READ)
        except OSError:  # it cannot be watched: as if it had not been forked
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
            os.close(status)
            return True
        self._running[ends] = (number, status)
        _tell(status, number)
        return True

    def _become_worker(
        self, variables: dict[str, str], server: int, incoming: int, outgoing: int, status: int, log: int
    ) -> None:
        try:
            for stream in (1, 2):
                os.dup2(log, stream)
            os.setpgid(0, 0)  # to be signalled with those that it starts; the server's session is its own
            worker.end_with_parent()
            if os.getppid() != server:  # it died before this process could ask to end with it
                os._exit(1)
            os.environ.update(variables)
            self._selector.close()
            self._requests.close()
            for file in (log, status, *self._running, *(status for _, status in self._running.values())):
                os.close(file)
            worker.main(self._module, incoming, outgoing)
        except BaseException as error:  # nothing of a job may go on in a copy of the server's loop
            sys.excepthook(type(error), error, error.__traceback__)
            sys.stderr.flush()
            os._exit(int(error.code) if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)

    def _tell_end(self, ends: int) -> None:
        number, status = self._running.pop(ends)
        self._selector.unregister(ends)
        os.close(ends)
        _, waited = os.waitpid(number, 0)
        _tell(status, os.waitstatus_to_exitcode(waited))
        os.close(status)


def _tell(status: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the executor has given the job up
        os.write(status, f"{number}\n".encode())


def main(module: str, requests: int) -> None:
    worker.end_with_parent()
    with socket.socket(fileno=requests) as listened:
        os.set_inheritable(requests, False)
        failed = worker.prepare(module)
        gc.collect()
        gc.freeze()  # so that the collector writes to no page that is shared with the jobs
        if failed is None and is_safe_to_fork():  # else each job imports for itself, and tells what it raises
            ForkServer(module, listened).serve()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
