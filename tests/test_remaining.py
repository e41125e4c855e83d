"""How much of a study is left, on both kinds of storages, before it is opened."""

from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from experiments.storage.remaining import remaining
from seg.errors import UserError
from tests.postgresql_server import PostgreSQL


def ask(url: str, study: str, *states: TrialState) -> None:
    """Adds trials in these states."""
    storage = optuna.storages.RDBStorage(url)
    found = optuna.create_study(storage=storage, study_name=study, load_if_exists=True)
    for state in states:
        value = 0.5 if state == TrialState.COMPLETE else None
        found.add_trial(optuna.trial.create_trial(state=state, value=value))
    storage.engine.dispose()


def check_counts(url: str) -> None:
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING, TrialState.RUNNING)
    ask(url, "mine", *ended)
    ask(url, "other", *[TrialState.COMPLETE] * 3)
    assert remaining(url, "mine", 5) == 3  # what failed, waits or runs does not count
    assert remaining(url, "mine", 2) == 0
    assert remaining(url, "mine", 1) == 0  # a smaller total than before
    assert remaining(url, "none", 5) == 5


def test_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    assert remaining(url, "mine", 5) == 5
    assert list(tmp_path.iterdir()) == []  # nothing was made
    check_counts(url)


def test_postgresql(postgresql: PostgreSQL) -> None:
    url = postgresql.create_database()
    assert remaining(url, "mine", 5) == 5
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == []
    check_counts(url)


def test_a_storage_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("no database" * 100)
    with pytest.raises(UserError, match=r"^storage sqlite:///.* does not answer \(file is not a database\)"):
        remaining(f"sqlite:///{tmp_path / 'optuna.db'}", "mine", 5)
