"""One driver per study on SQLite: a lock that the operating system gives back when its holder dies."""

import fcntl
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
        url: of the storage, a file.
        study: its name.
        part: `trials`, what a driver holds while they run; `command`, what an entry point holds around it, until the
            study's own run is ended too.

    Raises:
        StudyTaken: if another process holds it.
    """
    name = study if part == "trials" else f"{study}+{part}"  # no study's name has a plus
    path = Path(f"{url.database}.{name}.lock")
    # The file stays: removing it would let two drivers lock two files of the same name.
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyTaken(
                f"a study must have one driver, and another process is running '{study}'; wait for it, or stop it, "
                "use another study name, or a storage on PostgreSQL, which several drivers may share."
            ) from None
        yield
