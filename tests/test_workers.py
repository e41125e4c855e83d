"""Under pytest-xdist, which has threads, the processes are spawned; alone, as one test runs this file, forked."""

import ast
import fcntl
import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from seg.data import workers
from seg.data.workers import Died, Processes, _chunks, map_in_processes
from tests.alone import check_alone, only_alone


def test_without_threads_they_are_forked() -> None:
    # Neither what conftest.py nor what the filters of warnings import may start threads.
    check_alone(__file__, "--noconftest", "-o", "filterwarnings=error")


@only_alone
def test_they_are_forked() -> None:
    assert workers._may_fork()
    with Processes(2) as processes:
        assert processes._waiting == []  # until there is something to be born with
        processes.start(2)
        assert {type(worker.process).__name__ for worker in processes._waiting} == {"ForkProcess"}


def test_beside_a_thread_they_are_spawned() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with Processes(1) as processes:
            assert type(processes._waiting[0].process).__name__ == "SpawnProcess"
    finally:
        over.set()
        thread.join()


def test_beside_a_thread_of_somebody_elses_library_they_are_spawned() -> None:
    script = """
import time
import cv2, numpy as np
from seg.data.workers import _may_fork
assert _may_fork()
np.ones((500, 500)) @ np.ones((500, 500))  # OpenBLAS's threads are its own care
assert _may_fork()
cv2.setNumThreads(2)
cv2.GaussianBlur(np.zeros((4000, 4000, 3), np.uint8), (9, 9), 2)  # starts a thread that waits for more
assert not _may_fork()
np.ones((500, 500)) @ np.ones((500, 500))  # now there are as many threads as when both of OpenBLAS's run
assert not _may_fork()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def open_files(_: int) -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that was listed with
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found


def test_they_hold_no_lock_and_no_pipe_of_their_parents(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with Processes(2) as processes:
            found = dict(map_in_processes(open_files, range(4), 2, chunk_size=1, processes=processes))
    for names in found.values():
        assert not [name for name in names if name.startswith(str(tmp_path))]
        assert sum(name.startswith("socket:") for name in names) == 1


def dispositions(_: int) -> list[bool]:
    return [signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, signal.getsignal(signal.SIGINT) == signal.SIG_IGN]


def test_signals_reach_them_as_if_they_were_new() -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        assert dict(map_in_processes(dispositions, range(1), 1)) == {0: [True, True]}
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


def test_they_end_when_their_parent_is_killed() -> None:
    script = """
import os, signal
from seg.data.workers import Processes
with Processes(3) as processes:
    processes.start(3)
    print(*(worker.process.pid for worker in processes._waiting), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    # Its stdout ends only once nobody has it open any more.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    for pid in done.stdout.split():
        waited_until = time.monotonic() + 10
        while running(int(pid)):
            assert time.monotonic() < waited_until
            time.sleep(0.01)


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_caller_without_standard_streams(closed: str, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from seg.data import workers
may_fork, answers = workers._may_fork, []
workers._may_fork = lambda: answers.append(may_fork()) or answers[-1]
found = dict(workers.map_in_processes(abs, range(-3, 0), 2, chunk_size=1))
Path(sys.argv[1]).write_text(str((found, answers)))
"""
    command = ["bash", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", script, str(tmp_path / "found")]
    assert subprocess.run(command, timeout=60).returncode == 0
    found, answers = ast.literal_eval((tmp_path / "found").read_text())
    assert found == {0: 3, 1: 2, 2: 1}
    assert answers == [False, False]  # a pipe has the number of the stream by then


def test_a_fork_spawns() -> None:
    script = """
import multiprocessing
import cv2, numpy as np
from seg.data.workers import _may_fork
cv2.setNumThreads(2)
cv2.GaussianBlur(np.zeros((4000, 4000, 3), np.uint8), (9, 9), 2)  # a fork lacks this thread, and OpenCV waits for it
def work():
    assert not _may_fork()
process = multiprocessing.get_context("fork").Process(target=work)
process.start()
process.join()
assert process.exitcode == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@only_alone
def test_a_caller_that_does_not_wait_for_its_children() -> None:
    np.ones((500, 500)) @ np.ones((500, 500))  # OpenBLAS's threads are ended by a fork that is waited for
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert workers._may_fork()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_PATIENCE", 0.5)
    processes = Processes(1)
    processes.start(1)
    (worker,) = processes._waiting
    os.kill(worker.process.pid or 0, signal.SIGSTOP)
    started = time.monotonic()
    processes.__exit__(None, None, None)
    assert worker.process.exitcode == -signal.SIGKILL
    assert time.monotonic() - started < 60


def frozen(_: int) -> int:
    return gc.get_freeze_count()


@only_alone
def test_a_fork_does_not_look_through_its_parents_memory() -> None:
    kept = [[number] for number in range(50_000)]
    assert dict(map_in_processes(frozen, range(1), 1))[0] > len(kept)


def square(number: int) -> int:
    return number * number


def square_or_die(number: int) -> int:
    if number in (3, 17):
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def fail(number: int) -> int:
    raise OSError(f"disk full at {number}")


def loaded_modules(_: int) -> list[str]:
    return [name for name in ("tensorflow", "keras", "mlflow") if name in sys.modules]


def test_every_item_once():
    results = dict(map_in_processes(square, range(50), 2, chunk_size=4))
    assert results == {number: number * number for number in range(50)}


def test_nothing_to_do():
    assert list(map_in_processes(square, [], 2)) == []


def test_messages_shrink_near_the_end():
    # A message has at most a quarter of what each of two processes would get of the rest: 16 while 128 are left,
    # then 127 // 8 = 15, 112 // 8 = 14, 98 // 8 = 12, …
    chunks = list(_chunks(range(143), 2, 16))
    assert [len(chunk) for chunk in chunks[:4]] == [16, 15, 14, 12]
    assert [len(chunk) for chunk in chunks[-8:]] == [1] * 8
    assert [number for chunk in chunks for number in chunk] == [(number, number) for number in range(143)]


def say_goodbye(number: int) -> int:
    sys.stdout.write(f"goodbye {number}")
    return number


def test_what_a_process_has_written_is_not_lost_when_it_ends(capfd, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    assert dict(map_in_processes(say_goodbye, range(1), 1)) == {0: 0}
    assert capfd.readouterr().out == "goodbye 0"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_death_costs_only_the_item_that_kills(jobs):
    results = dict(map_in_processes(square_or_die, range(20), jobs, chunk_size=8))
    expected = {number: number * number for number in range(20)}
    assert results == expected | {3: Died(-signal.SIGKILL), 17: Died(-signal.SIGKILL)}


def test_an_exception_is_raised_and_leaves_no_process():
    with pytest.raises(OSError, match="disk full at 0"):
        list(map_in_processes(fail, range(4), 2, chunk_size=4))
    assert not multiprocessing.active_children()


def test_stopping_early_leaves_no_process():
    results = map_in_processes(square, range(100), 2, chunk_size=1)
    next(results)
    results.close()
    assert not multiprocessing.active_children()


def test_processes_import_no_framework():
    assert dict(map_in_processes(loaded_modules, [0], 1)) == {0: []}


def swell(text: str) -> str:
    return text * 2


def test_large_items_and_results_do_not_block_each_other():
    items = ["x" * 400_000] * 40
    results = dict(map_in_processes(swell, items, 2, chunk_size=4))
    assert {len(result) for result in results.values()} == {800_000}
    assert len(results) == 40


def hang_on_seven(item: int) -> int:
    if item == 7:
        time.sleep(600)
    return item


def test_an_item_that_hangs_costs_that_item() -> None:
    results = dict(map_in_processes(hang_on_seven, range(20), 2, chunk_size=4, item_seconds=1))
    assert results.pop(7) == Died(-9, hung=True)
    assert results == {item: item for item in range(20) if item != 7}


def spin_without_python(item: bytes) -> int:
    if item.startswith(b"hang"):
        re.match(rb"(a+)+$", b"a" * 40 + b"b")  # catastrophic: one C call that holds every Python thread
    return len(item)


def test_a_hang_in_c_code_that_holds_the_interpreter() -> None:
    large = b"x" * 300_000  # more than a pipe holds: the parent may be sending when the process hangs
    items = [b"hang", *[large] * 9]
    results = dict(map_in_processes(spin_without_python, items, 1, chunk_size=1, item_seconds=1))
    assert results.pop(0) == Died(-9, hung=True)
    assert results == dict.fromkeys(range(1, 10), 300_000)


def test_processes_that_wait_are_taken_first():
    with Processes(2, "json") as processes:
        processes.start(2)
        waiting = {worker.process.pid for worker in processes._waiting}
        found = dict(map_in_processes(process_number, range(40), 2, chunk_size=4, processes=processes))
        assert set(found.values()) <= waiting
        assert processes._waiting == []


def test_processes_without_work_end():
    with Processes(1) as processes:
        processes.start(1)
        (worker,) = processes._waiting
    assert worker.process.exitcode == 0


def test_items_that_a_process_was_born_with_are_its_own() -> None:
    with Processes(0) as processes:
        processes.start(2, range(100, 140))
        found = dict(map_in_processes(square, range(40), 2, chunk_size=4, processes=processes))
    assert found == {number: number * number for number in range(40)}


def process_number(_: int) -> int:
    return os.getpid()


def threads(_: int) -> int:
    import numpy as np

    assert np.__version__
    return len(os.listdir("/proc/self/task"))


def test_numpy_starts_no_threads_of_its_own(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert dict(map_in_processes(threads, range(1), 1)) == {0: 2}  # the second receives
    assert "OPENBLAS_NUM_THREADS" not in os.environ
