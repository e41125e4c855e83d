"""The thread that delivers, with a stand-in for MLflow: order, outages, refusals, lost answers."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.tracking import delivery as delivery_module
from experiments.tracking.delivery import Delivery, Unanswered
from experiments.tracking.operations import Operation, new_key
from experiments.tracking.outbox import Outbox
from seg.errors import UserError


class Store:
    """What is told to it, in order; away, or refusing a run, or losing its answers, as a test says."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, bool]] = []
        self.ids: dict[str, str] = {}
        self.away = False
        self.refuses: set[str] = set()
        self.lost_answers = 0
        self.refused = 0

    def tell(self, operation: Operation) -> None:
        if self.away or operation.run in self.refuses:
            self.refused += 1
            raise ConnectionError(f"no route to {operation.run}\nat all")
        self.told.append((operation.run, operation.do, operation.again))
        if operation.do == "create":
            self.ids[operation.run] = f"id of {operation.run}"
        if self.lost_answers:
            self.lost_answers -= 1
            raise ConnectionError("reset by peer")

    def answers(self) -> bool:
        return not self.away


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "_SHORTEST_PAUSE", 0.05)


@pytest.fixture
def delivery(outbox: Outbox, store: Store) -> Iterator[Delivery]:
    delivery = Delivery(outbox, store.tell, store.answers, store.ids)
    delivery.start()
    yield delivery
    delivery.close()


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def status(run: str) -> Operation:
    return Operation(run=run, do="status", what={"status": "RUNNING"})


def silent(line: str) -> None:
    pass


def test_what_is_appended_is_told_in_order(delivery: Delivery, store: Store, outbox: Outbox) -> None:
    key = new_key()
    delivery.append([Operation(run=key, do="create", what={}), status(key)])
    assert delivery.wait_for_id(key, 20) == f"id of {key}"
    delivery.append([Operation(run=f"id of {key}", do="note", what={})])
    delivery.settle(20, silent)
    assert store.told == [(key, "create", False), (key, "status", False), (key, "note", False)]
    assert (len(outbox), delivery.undelivered()) == (0, (0, [], ""))


def test_what_one_run_is_refused_holds_up_no_other(delivery: Delivery, store: Store, outbox: Outbox) -> None:
    store.refuses = {"a"}
    delivery.append([status("a"), status("b")])
    wait_until(lambda: ("b", "status", False) in store.told)
    assert delivery.undelivered() == (1, ["a"], "no route to a")
    store.refuses = set()
    delivery.settle(20, silent)
    assert store.told == [("b", "status", False), ("a", "status", True)]
    assert store.refused >= 1


def test_nobody_waits_for_a_server_that_is_away(delivery: Delivery, store: Store, outbox: Outbox) -> None:
    store.away = True
    delivery.append([status("a")])
    wait_until(lambda: delivery.away)
    started = time.monotonic()
    assert delivery.wait_for_id(new_key(), 20) is None
    with pytest.raises(Unanswered):
        delivery.ask("a", lambda: 1, 20)
    assert time.monotonic() - started < 15
    assert (store.told, delivery.undelivered()) == ([], (1, ["a"], "no route to a"))
    store.away = False
    delivery.settle(20, silent)
    assert store.told == [("a", "status", True)]


def test_with_an_answer_lost_it_is_told_again_and_as_such(delivery: Delivery, store: Store, outbox: Outbox) -> None:
    store.lost_answers = 1
    delivery.append([status("a")])
    delivery.settle(20, silent)
    assert store.told == [("a", "status", False), ("a", "status", True)]
    assert store.lost_answers == 0


def test_a_question_is_asked_once_the_run_was_told_everything(delivery: Delivery, store: Store) -> None:
    delivery.append([status("a")])
    assert delivery.ask("a", lambda: list(store.told), 20) == [("a", "status", False)]


def test_a_question_may_end_in_a_mistake_of_the_user(delivery: Delivery) -> None:
    def gone() -> None:
        raise UserError("MLflow run a must not be deleted")

    with pytest.raises(UserError, match="must not be deleted"):
        delivery.ask("a", gone, 20)


def test_a_question_that_fails_is_not_answered(delivery: Delivery) -> None:
    def broken() -> None:
        raise ConnectionError

    with pytest.raises(Unanswered):
        delivery.ask("a", broken, 20)


def test_a_question_is_given_up_in_time(delivery: Delivery, store: Store) -> None:
    release = threading.Event()
    with pytest.raises(Unanswered):
        delivery.ask("a", lambda: release.wait(20), 0.05)
    release.set()


def test_at_the_end_it_waits_a_little_and_says_so(
    delivery: Delivery, store: Store, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "_SAY_EVERY", 0.05)
    store.away = True
    delivery.append([status("a"), status("b")])
    lines: list[str] = []
    started = time.monotonic()
    delivery.settle(0.5, lines.append)
    assert 0.5 <= time.monotonic() - started < 10
    assert lines[-1] == "delivering to MLflow: 2 operation(s) left (no route to a)"
    delivery.close()
    again = Outbox(outbox.folder)  # it was given back, and nothing was lost
    assert len(again) == 2
    again.close()


def test_it_waits_for_one_run_alone(delivery: Delivery, store: Store) -> None:
    store.refuses = {"a"}
    delivery.append([status("a"), status("b")])
    started = time.monotonic()
    delivery.settle(20, silent, run="b")
    assert time.monotonic() - started < 15
    assert store.told == [("b", "status", False)]
