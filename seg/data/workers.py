"""Work in processes that may die or hang: one bad item costs that item, never the whole job.

Where the caller has one thread, and Linux, they are forked when there is work, have the items from their birth and work
at once; to import NumPy and OpenCV again takes a quarter of a second. Else they are spawned, and sent the items: what
another thread holds at a fork, the fork holds for ever.
"""

import ctypes
import gc
import importlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, Self

import threadpoolctl

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_CHUNK = 16
_AHEAD = 2  # chunks per process: one in work, one waiting, so that no process waits for the parent
ITEM_SECONDS = 60.0
_PATIENCE = 10.0  # seconds for a process to end by itself
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
_KEEP = 256 * 1024 * 1024
_ENDING = (signal.SIGINT, signal.SIGTERM)
_forked: list[bool] = []  # filled in a process that was forked from one that had this module
os.register_at_fork(after_in_child=lambda: _forked.append(True))
_streams: list[Any] = []  # the caller's, of a fork: to be let go of would close them


@dataclass(frozen=True)
class Died:
    """The process that worked on an item ended; `exitcode` is as in `multiprocessing`: −9 is SIGKILL.

    `hung` says that it was killed because the item took too long.
    """

    exitcode: int | None
    hung: bool = False


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    started: Any  # shared with the process: how many items it has begun
    items: Sequence[Any] | None = None  # that it was born with, and is not sent
    hung: bool = False
    chunks: deque[list[tuple[int, Any]]] = field(default_factory=deque)  # sent and not answered, oldest first


class Processes:
    """Processes that start now and wait for work, if they are spawned: it takes as long as to read an annotation file.

    Args:
        jobs: how many.
        module: what they import while they wait.
    """

    def __init__(self, jobs: int, module: str = "") -> None:
        self._module = module
        self._waiting: list[_Worker] = []
        if jobs and not _may_fork():
            self.start(jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for worker in self._waiting:
            worker.connection.close()  # all at once: each takes a moment to end
        for worker in self._waiting:
            _end(worker)

    def start(self, jobs: int, items: Sequence[Any] | None = None) -> None:
        """Starts as many as that, less those that wait already, for these items."""
        while len(self._waiting) < jobs:
            self._waiting.append(self._start(items))

    def take(self) -> _Worker:
        """One that waits, or a new one."""
        return self._waiting.pop() if self._waiting else self._start()

    def _start(self, items: Sequence[Any] | None = None) -> _Worker:
        forks = _may_fork()
        context = multiprocessing.get_context("fork" if forks else "spawn")
        ours, theirs = context.Pipe()
        begun = context.RawValue("q", 0)
        work: Callable[..., None] = _serve_forked if forks else _serve
        arguments: tuple[Any, ...] = (theirs, begun, self._module)
        if forks:
            arguments += (items, _open_files() - {0, 1, 2, theirs.fileno()})
        process: BaseProcess = context.Process(target=work, args=arguments, daemon=True)  # type: ignore[attr-defined]
        with _without_main_module(), _one_thread(), _undisturbed() if forks else nullcontext():
            process.start()
        theirs.close()
        return _Worker(process, ours, begun, items if forks else None)


def processes_for(items: int, jobs: int, chunk_size: int = _CHUNK) -> int:
    """How many of `jobs` processes get work."""
    return min(jobs, -(-items // chunk_size))


def map_in_processes(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    jobs: int,
    *,
    chunk_size: int = _CHUNK,
    item_seconds: float = ITEM_SECONDS,
    processes: Processes | None = None,
) -> Generator[tuple[int, Any], None, None]:
    """Applies a function to every item, in `jobs` processes.

    When a process dies, or is killed because one item took too long, the items of its chunk are tried again one at a
    time, each in a process that has done no harm yet, so the item that kills is known by name.

    Args:
        function: sent to each process once, by pickle.
        items: sent in chunks.
        jobs: number of processes.
        chunk_size: items per message; fewer near the end, so that the processes end together.
        item_seconds: that one item may take.
        processes: taken first, where some wait already.

    Yields:
        The item's index and what the function returned, or `Died`; in the order in which they end.

    Raises:
        Exception: what the function raised.
    """
    if processes is None:
        with Processes(0) as own:
            yield from map_in_processes(
                function, items, jobs, chunk_size=chunk_size, item_seconds=item_seconds, processes=own
            )
        return
    jobs = processes_for(len(items), jobs, chunk_size)
    chunks = deque(_chunks(items, jobs, chunk_size))
    workers: dict[Connection, _Worker] = {}

    def start() -> None:
        worker = processes.take()
        workers[worker.connection] = worker
        with suppress(OSError):
            worker.connection.send(function)
        give(worker)

    def give(worker: _Worker) -> None:
        while chunks and len(worker.chunks) < _AHEAD:
            chunk = chunks.popleft()
            worker.chunks.append(chunk)
            with suppress(OSError):  # it died; reading from it says so
                worker.connection.send(range(chunk[0][0], chunk[-1][0] + 1) if worker.items is items else chunk)
        if not worker.chunks:
            del workers[worker.connection]
            _end(worker)

    watch = threading.Event()
    watcher = threading.Thread(target=_kill_what_hangs, args=(workers, item_seconds, watch), daemon=True)
    try:
        processes.start(jobs, items)  # while there is no other thread
        watcher.start()
        for _ in range(jobs):
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
                        yield suspects[0][0], Died(worker.process.exitcode, worker.hung)
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
        watch.set()
        for worker in workers.values():
            worker.process.terminate()
            _end(worker)
        if watcher.ident is not None:
            watcher.join()  # or the next call would have two threads


def _chunks(items: Sequence[Any], jobs: int, chunk_size: int) -> Iterator[list[tuple[int, Any]]]:
    numbered = list(enumerate(items))
    start = 0
    while start < len(numbered):
        share = (len(numbered) - start) // (2 * _AHEAD * jobs)
        end = start + max(1, min(share, chunk_size))
        yield numbered[start:end]
        start = end


def _may_fork() -> bool:
    """Whether this process has one thread, is no fork itself, and has its standard streams.

    Threads of OpenBLAS, which NumPy and OpenCV each bring along, do not count: it ends them itself before a fork. A
    fork may have what threads held that it has not. Where a stream is closed, a pipe takes its number.
    """
    if not sys.platform.startswith("linux") or threading.active_count() > 1:
        return False
    if _forked or multiprocessing.parent_process() is not None:
        return False
    if None in (sys.__stdin__, sys.__stdout__, sys.__stderr__) or not {0, 1, 2} <= _open_files():
        return False
    of_blas = (pool for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas")
    most = 1 + sum(pool["num_threads"] - 1 for pool in of_blas)
    if _threads() > most:
        time.sleep(0.002)  # one that has just ended may still be listed
    if 1 < _threads() <= most:
        _fork_nothing()
    return _threads() == 1


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _fork_nothing() -> None:
    with _undisturbed():
        if not (number := os.fork()):
            os._exit(0)
    with suppress(ChildProcessError):  # where the caller ignores SIGCHLD, nobody waits for a child
        os.waitpid(number, 0)


def _open_files() -> set[int]:
    """The numbers of the files that this process has open."""
    found = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # that of the list itself
            os.fstat(number)
            found.add(number)
    return found


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Holds back signals that end a process, so that none meets the caller's handlers in its fork."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main_module() -> Iterator[None]:
    """A spawned process imports its parent's main module again: for an entry point, seconds of imports of no use."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _one_thread() -> Iterator[None]:
    """NumPy's linear algebra starts a thread for each core as soon as it is imported, and these processes need none."""
    before = os.environ.get(_BLAS_THREADS)
    os.environ[_BLAS_THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_BLAS_THREADS]
        else:
            os.environ[_BLAS_THREADS] = before


def _end(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.join(_PATIENCE)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _kill_what_hangs(workers: dict[Connection, _Worker], item_seconds: float, ended: threading.Event) -> None:
    """Runs in a thread of its own: to a process that hangs, the others' thread may be waiting to send."""
    seen: dict[Connection, tuple[int, float]] = {}
    while not ended.wait(min(1, item_seconds / 4)):
        for connection, worker in list(workers.items()):
            begun = worker.started.value
            before, since = seen.get(connection, (-1, 0.0))
            if begun != before or not worker.chunks or not begun:
                seen[connection] = (begun, time.monotonic())
            elif time.monotonic() - since > item_seconds:
                worker.hung = True
                worker.process.kill()


def _serve_forked(connection: Connection, begun: Any, module: str, items: Any, files: set[int]) -> None:
    gc.freeze()  # or looking through what the caller has in memory would copy it
    _let_go_of(files)
    _streams.extend((sys.stdout, sys.stderr))
    sys.stdout, sys.stderr = (os.fdopen(number, "w", errors="backslashreplace", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which the caller may take for Ctrl-C
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    _serve(connection, begun, module, items)


def _let_go_of(files: set[int]) -> None:
    """Locks and pipes stay as they are while any process has them open, so a fork must not have the caller's.

    Their numbers stay taken: somebody may still write to one.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in files:
        os.dup2(nothing, number)
    os.close(nothing)


def _serve(connection: Connection, begun: Any, module: str, items: Any = None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the processes
    _keep_memory()
    if module:
        importlib.import_module(module)
    try:
        function = connection.recv()
    except (EOFError, OSError):
        return  # there was no work
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # Read in a thread of its own: if both ends were busy sending, both would wait for ever.
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    while (chunk := received.get()) is not None:
        try:
            results: Any = []
            known = isinstance(chunk, range)
            for item in (items[index] for index in chunk) if known else (item for _, item in chunk):
                begun.value += 1
                results.append(function(item))
        except Exception as error:
            results = error
        connection.send(results)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # there is none, or it is closed
            stream.flush()
    os._exit(0)  # to take down the interpreter and its libraries takes as long as ten images


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
