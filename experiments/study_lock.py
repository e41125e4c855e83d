"""One driver per study: a lock that the operating system or the database gives back when its holder dies."""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import sqlalchemy

from seg.errors import UserError

Part = Literal["trials", "command"]


class StudyTaken(UserError):
    """Another process holds the study."""


@contextmanager
def study_lock(url: sqlalchemy.URL, study: str, part: Part = "trials") -> Iterator[None]:
    """Holds the study while the block runs.

    Args:
        url: of the storage.
        study: its name.
        part: `trials`, what a driver holds while they run; `command`, what an entry point holds around it, until the
            study's own run is ended too.

    Raises:
        StudyTaken: if another process holds it.
    """
    name = study if part == "trials" else f"{study}+{part}"  # no study's name has a plus
    if url.get_backend_name() == "sqlite":
        with _file_lock(Path(f"{url.database}.{name}.lock"), study):
            yield
    else:
        with _advisory_lock(url, name, study):
            yield


@contextmanager
def _file_lock(path: Path, study: str) -> Iterator[None]:
    # The file stays: removing it would let two drivers lock two files of the same name.
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(study) from None
        yield


@contextmanager
def _advisory_lock(url: sqlalchemy.URL, name: str, study: str) -> Iterator[None]:
    key = int.from_bytes(hashlib.sha256(f"seg study {name}".encode()).digest()[:8], signed=True)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if not connection.scalar(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}):
            raise _taken(study)
        yield


def _taken(study: str) -> StudyTaken:
    return StudyTaken(
        f"a study must have one driver, and another process is running '{study}'; wait for it, or stop it, "
        "or use another study name."
    )
