"""The real server that other tests use."""

import pytest
import sqlalchemy

from experiments.storage.storage_connection import try_out
from tests.postgresql_server import PostgreSQL


def test_what_is_committed_outlasts_a_restart(postgresql: PostgreSQL) -> None:
    url = postgresql.create_database()
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE numbers AS SELECT 42 AS number")
    postgresql.stop()
    with pytest.raises(sqlalchemy.exc.OperationalError, match="refused"), engine.connect():
        pass
    postgresql.start()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT number FROM numbers").scalar_one() == 42
        assert connection.exec_driver_sql("SELECT current_user").scalar_one() == "seg"
        assert not connection.exec_driver_sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'seg'").scalar_one()


def test_a_password_is_asked_for(postgresql: PostgreSQL) -> None:
    url = sqlalchemy.make_url(postgresql.create_database()).set(password="wrong")
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with pytest.raises(sqlalchemy.exc.OperationalError, match="password authentication failed"), engine.connect():
        pass


def test_doctor_tries_it_out(postgresql: PostgreSQL) -> None:
    clock = try_out(postgresql.create_database())
    assert clock is not None
    assert abs(clock.ahead) < 5  # the same machine's clock
