"""Work in processes that may die: one bad item costs that item, never the whole job.

The processes are spawned, so that they import only what the function needs, whatever the caller has loaded.
"""

import ctypes
import multiprocessing
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_AHEAD = 2  # chunks per process: one in work, one waiting, so that no process waits for the parent
_KEEP = 256 * 1024 * 1024


@dataclass(frozen=True)
class Died:
    """The process that worked on an item ended; `exitcode` is as in `multiprocessing`: −9 is SIGKILL."""

    exitcode: int | None


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    chunks: deque[list[tuple[int, Any]]] = field(default_factory=deque)  # sent and not answered, oldest first


def map_in_processes(
    function: Callable[[Any], Any], items: Sequence[Any], jobs: int, *, chunk_size: int = 16
) -> Iterator[tuple[int, Any]]:
    """Applies a function to every item, in `jobs` spawned processes.

    When a process dies, the items of its chunk are tried again one at a time, each in a process that has done no harm
    yet, so the item that kills is known by name.

    Args:
        function: sent to each process once, by pickle.
        items: sent in chunks.
        jobs: number of processes.
        chunk_size: items per message.

    Yields:
        The item's index and what the function returned, or `Died`; in the order in which they end.

    Raises:
        Exception: what the function raised.
    """
    numbered = list(enumerate(items))
    chunks = deque(numbered[start : start + chunk_size] for start in range(0, len(numbered), chunk_size))
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, _Worker] = {}

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _without_main_module():
            process.start()
        theirs.close()
        workers[ours] = _Worker(process, ours)
        give(workers[ours])

    def give(worker: _Worker) -> None:
        while chunks and len(worker.chunks) < _AHEAD:
            worker.chunks.append(chunks.popleft())
            with suppress(OSError):  # it died; reading from it says so
                worker.connection.send(worker.chunks[-1])
        if not worker.chunks:
            del workers[worker.connection]
            _end(worker)

    try:
        for _ in range(min(jobs, len(chunks))):
            start()
        while workers:
            for connection in wait(list(workers)):
                worker = workers[connection]  # type: ignore[index]
                try:
                    results = worker.connection.recv()
                except (EOFError, OSError):
                    del workers[worker.connection]
                    _end(worker)
                    suspects = worker.chunks.popleft()
                    chunks.extendleft(reversed(worker.chunks))
                    if len(suspects) == 1:
                        yield suspects[0][0], Died(worker.process.exitcode)
                    else:
                        chunks.extendleft([item] for item in reversed(suspects))
                    if chunks:
                        start()
                    continue
                if isinstance(results, BaseException):
                    raise results
                finished = worker.chunks.popleft()
                give(worker)
                yield from zip((index for index, _ in finished), results, strict=True)
    finally:
        for worker in workers.values():
            worker.process.terminate()
            _end(worker)


@contextmanager
def _without_main_module() -> Iterator[None]:
    """A spawned process imports its parent's main module again: for an entry point, seconds of imports of no use."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _end(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.join(10)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the processes
    _keep_memory()
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # Read in a thread of its own: if both ends were busy sending, both would wait for ever.
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    while (chunk := received.get()) is not None:
        try:
            results: Any = [function(item) for _, item in chunk]
        except Exception as error:
            results = error
        connection.send(results)


def _receive(connection: Connection, received: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            received.put(connection.recv())
    except (EOFError, OSError):
        received.put(None)  # the parent has ended, or wants no more


def _keep_memory() -> None:
    """Tells glibc to keep freed memory: getting and returning each image's pages takes longer than decoding it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for option in (_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD):
            mallopt(option, _KEEP // 4 if option == _M_TOP_PAD else _KEEP)
