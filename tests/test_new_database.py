import sqlite3
from pathlib import Path

import pytest

from experiments.storage.new_database import create_whole


def tables(url: str) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
        database.execute("create table one (number integer)")
    database.close()


def test_it_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    def create(url: str) -> None:
        tables(url)
        assert not path.exists()

    create_whole(path, create)
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]
    create_whole(path, lambda url: pytest.fail("it is there already"))


def test_a_creation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def create(url: str) -> None:
        tables(url)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        create_whole(tmp_path / "a.db", create)
    assert list(tmp_path.iterdir()) == []


def test_another_process_was_faster(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    def create(url: str) -> None:
        tables(url)
        path.write_text("of the other")

    create_whole(path, create)
    assert path.read_text() == "of the other"
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]
