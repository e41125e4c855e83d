import multiprocessing
import os
import signal
import sys

import pytest

from seg.data.workers import Died, map_in_processes


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
