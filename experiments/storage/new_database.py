"""A new SQLite database appears whole, or not at all.

A process that is killed while a library creates its tables leaves a file that neither MLflow nor Optuna can use or
repair: every later command would fail on it.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def create_whole(path: Path, create: Callable[[str], None]) -> None:
    """Creates a database beside its place and links it there; if another process was faster, that one's stays.

    Args:
        path: of the database; nothing happens if it is there already.
        create: makes the tables of the database with this URL, and closes it.
    """
    if path.exists():
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # of a process that had the same number
    try:
        create(f"sqlite:///{partial}")
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
