"""What is tried again when the connection to the database is lost, and that nothing is done twice by that."""

from collections.abc import Iterator
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

from experiments.storage.patience import is_lost_connection, patiently
from experiments.storage.stored_study import TrialRow
from experiments.storage.study_store import StudyStore, open_study
from tests.postgresql_server import PostgreSQL
from tests.study_setting import make_space
from tests.test_storage import make_identity

LOST = sqlalchemy.exc.OperationalError("", {}, Exception("server closed the connection unexpectedly"))


@pytest.fixture
def store(postgresql: PostgreSQL) -> Iterator[StudyStore]:
    with open_study(postgresql.create_database(), make_identity()) as store:
        yield store


def test_a_lost_connection_is_tried_again_for_a_while() -> None:
    outcomes: list[Any] = [LOST, LOST, 42]

    def action() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert patiently(action) == 42
    outcomes.append(LOST)
    with pytest.raises(sqlalchemy.exc.OperationalError, match="server closed"):
        patiently(action, seconds=-1)
    assert outcomes == []


def test_another_error_is_none() -> None:
    wrapped = StorageInternalError()
    wrapped.__cause__ = LOST
    assert is_lost_connection(wrapped)
    refused = sqlalchemy.exc.DataError("", {}, Exception("value too long"))
    assert not is_lost_connection(refused)
    calls = []
    with pytest.raises(sqlalchemy.exc.DataError, match="too long"):
        patiently(lambda: calls.append(1) or (_ for _ in ()).throw(refused))
    assert calls == [1]


def test_a_transaction_that_was_lost_is_done_again_as_a_whole(store: StudyStore) -> None:
    arms, asked = iter(make_space().arms()), []

    def action() -> TrialRow:
        asked.append(store.ask(next(arms)))
        if len(asked) == 1:
            raise LOST
        return asked[-1]

    row = store.atomically(action)
    assert [each.number for each in asked] == [0, 0]  # of the first nothing was left
    assert [(each.number, each.config) for each in store.trials()] == [(0, row.config)]
    assert row.config == make_space().arms()[1]
    store.complete(0, 0.5)
    assert store.trials()[0].state == "finished"


def test_the_end_of_a_trial_whose_answer_was_lost(store: StudyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    end = optuna.storages.RDBStorage.set_trial_state_values
    attempts = []

    def lose_the_first_answer(self: Any, *arguments: Any) -> bool:
        attempts.append(arguments)
        ended = end(self, *arguments)
        if len(attempts) == 1:
            raise LOST
        return ended

    row = store.ask(make_space().arms()[0])
    monkeypatch.setattr(optuna.storages.RDBStorage, "set_trial_state_values", lose_the_first_answer)
    store.complete(row.number, 0.5)
    assert len(attempts) == 2
    monkeypatch.undo()
    assert [(each.state, each.val_dice) for each in store.trials()] == [("finished", 0.5)]
    with pytest.raises(UpdateFinishedTrialError):  # at the first attempt it is a mistake
        store.fail(row.number, "again")
