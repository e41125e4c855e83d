"""The way to Optuna's storage: its URL, how it is shown without a password, and what a database refuses as one line."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

import optuna
import sqlalchemy

from experiments.command_line.passwords import hide
from experiments.storage.leases import Lease, connection_options
from experiments.storage.patience import PatientStorage
from seg.errors import UserError

Result = TypeVar("Result")

DEFAULT_STORAGE = "sqlite:///optuna.db"


def parse_url(url: str) -> sqlalchemy.URL:
    """Takes a storage URL apart.

    Raises:
        UserError: if it is none that a study can go on with. The message never shows a password.
    """
    try:
        parsed = sqlalchemy.make_url(url)
        backend = parsed.get_backend_name()
    except (sqlalchemy.exc.ArgumentError, ValueError):
        backend = ""  # the URL may hold a password: it is not shown
    if backend not in ("sqlite", "postgresql"):
        raise UserError("storage must be a URL like sqlite:///optuna.db or postgresql://user@host/database.")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UserError(f"storage must name a file, so that a study can go on; use {DEFAULT_STORAGE}.")
    return parsed


def displayed(url: str) -> str:
    """The storage's URL as it may be shown: without its password, and without options, which may hold one."""
    return _shown(parse_url(url))


def _shown(url: sqlalchemy.URL) -> str:
    return hide(url.set(query={}).render_as_string(hide_password=True))


def without_password(text: str, url: sqlalchemy.URL) -> str:
    """A text, such as a driver's error, with the URL's passwords as `***`."""
    secrets = [url.password, *(str(value) for name, value in url.query.items() if "pass" in name)]
    for secret in filter(None, secrets):
        for form in {secret, quote(secret, safe=""), quote_plus(secret)}:
            text = text.replace(form, "***")
    return hide(text)


def connect(url: sqlalchemy.URL, lease: Lease | None = None) -> optuna.storages.RDBStorage:
    """Optuna's storage at a URL; tables are created where they are missing.

    Args:
        lease: of the driver that uses it, on PostgreSQL.
    """
    text = url.render_as_string(hide_password=False)
    if url.get_backend_name() == "sqlite":
        return optuna.storages.RDBStorage(text, engine_kwargs={"connect_args": {"timeout": 60}})
    options = {} if lease is None else connection_options(lease.driver)
    storage = PatientStorage(text, engine_kwargs={"pool_pre_ping": True, "connect_args": options})
    sqlalchemy.event.listen(storage.engine, "connect", _use_utc)
    if lease is not None:
        sqlalchemy.event.listen(storage.engine, "connect", lease.admit)
    storage.engine.dispose()  # what was opened before these were heard
    return storage


def _use_utc(connection: Any, record: object) -> None:
    # Optuna compares the session's time with what another machine's session wrote.
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
    connection.commit()


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Opens a storage that exists, for those who look at it.

    Raises:
        UserError: if it does not answer or is none. The message never shows a password.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).is_file():
        raise UserError(f"storage must name a file that exists, got {parsed.database}; run a study first.")
    return or_user_error(parsed, lambda: connect(parsed))


def or_user_error(url: sqlalchemy.URL, action: Callable[[], Result]) -> Result:
    """What `action` returns; what it raises about the database becomes one line.

    Raises:
        UserError: if the storage does not answer. The message never shows a password.
    """
    shown = _shown(url)
    try:
        return action()
    except ImportError:
        raise UserError(f"storage {shown} needs the extra postgres; pip install -e '.[postgres]'.") from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError, RuntimeError) as error:
        cause = error.__cause__ or error
        detail = str(getattr(cause, "orig", cause)).strip().partition("\n")[0]
        raise UserError(f"storage {shown} does not answer ({without_password(detail, url)}).") from None


@dataclass(frozen=True, kw_only=True)
class DatabaseClock:
    """What a database believes about the time.

    Attributes:
        zone: of its sessions, such as `UTC`.
        ahead: seconds by which its clock is ahead of this machine's.
    """

    zone: str
    ahead: float


def try_out(url: str) -> DatabaseClock | None:
    """Makes a table in a storage that exists, takes it back, and asks for the time; None where a file has no clock.

    Raises:
        UserError: if it does not answer, cannot be written, or is of another version of Optuna.
    """
    parsed = parse_url(url)
    return or_user_error(parsed, lambda: _try_out(parsed))


def _try_out(url: sqlalchemy.URL) -> DatabaseClock | None:
    is_file = url.get_backend_name() == "sqlite"
    limits = {"timeout": 5} if is_file else {"connect_timeout": 5}
    engine = sqlalchemy.create_engine(
        url, connect_args=limits, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_file else "BEGIN")
        connection.exec_driver_sql("CREATE TABLE seg_doctor (tried INTEGER)")
        connection.exec_driver_sql("INSERT INTO seg_doctor VALUES (1)")
        connection.exec_driver_sql("ROLLBACK")
        has_tables = sqlalchemy.inspect(connection).has_table("version_info")
        clock = None
        if not is_file:
            zone = connection.exec_driver_sql("SHOW timezone").scalar_one()
            theirs = connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one()
            clock = DatabaseClock(zone=str(zone), ahead=float(theirs) - time.time())
    if has_tables:
        connect(url).engine.dispose()  # it compares the version of the tables with its own
    return clock
