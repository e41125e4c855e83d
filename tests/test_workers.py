import multiprocessing
import os
import re
import signal
import sys
import time

import pytest

from seg.data.workers import Died, Processes, _chunks, map_in_processes


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
        waiting = {worker.process.pid for worker in processes._waiting}
        found = dict(map_in_processes(process_number, range(40), 2, chunk_size=4, processes=processes))
        assert set(found.values()) <= waiting
        assert processes._waiting == []


def test_processes_without_work_end():
    with Processes(1) as processes:
        (worker,) = processes._waiting
    assert worker.process.exitcode == 0


def process_number(_: int) -> int:
    return os.getpid()


def blas_threads(_: int) -> str | None:
    return os.environ.get("OPENBLAS_NUM_THREADS")


def test_numpy_starts_no_threads_of_its_own(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert dict(map_in_processes(blas_threads, range(1), 1)) == {0: "1"}
    assert "OPENBLAS_NUM_THREADS" not in os.environ
