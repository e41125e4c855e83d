from pathlib import Path

import pytest

from experiments.prediction.prediction_journal import PredictionJournal
from seg.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_what_was_added_is_found_for_this_image_and_these_settings(path: Path) -> None:
    with PredictionJournal(path, "settings") as journal:
        journal.add("a.png", "hash", {"area": 1})
        journal.add("b.png", "hash", {"area": 2})
        journal.add("a.png", "hash", {"area": 3})
        assert journal.find("a.png", "hash") == {"area": 3}
    with PredictionJournal(path, "settings") as journal:
        assert journal.find("a.png", "hash") == {"area": 3}
        assert journal.find("b.png", "hash") == {"area": 2}
        assert journal.find("b.png", "another") is None
        assert journal.find("c.png", "hash") is None
    with PredictionJournal(path, "others") as journal:
        assert journal.find("a.png", "hash") is None


@pytest.mark.parametrize("damage", [b'{"name": "b.png", "set', b"\n\n", b"[]\n", b"null\n", b"{}\n", b"\xff\n"])
def test_damaged_lines_are_passed_over(path: Path, damage: bytes) -> None:
    with PredictionJournal(path, "settings") as journal:
        journal.add("a.png", "hash", {"area": 1})
    path.write_bytes(path.read_bytes() + damage)
    with PredictionJournal(path, "settings") as journal:
        journal.add("b.png", "hash", {"area": 2})
    with PredictionJournal(path, "settings") as journal:
        assert journal.find("a.png", "hash") == {"area": 1}
        assert journal.find("b.png", "hash") == {"area": 2}


def test_one_process_at_a_time(path: Path) -> None:
    with PredictionJournal(path, "settings"), pytest.raises(UserError, match="output must have one predict at a time"):
        PredictionJournal(path, "settings")
    PredictionJournal(path, "settings").__exit__(None, None, None)
