"""The outbox on disk: what was appended is there afterwards, whatever became of the process or the file."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tracking.operations import Operation, is_key, merged, new_key, trial_key
from experiments.tracking.outbox import JOURNAL, Outbox, OutboxTaken, journal_line, read_journal
from experiments.tracking.outboxes import Outboxes, stores
from seg.errors import UserError


def batch(run: str, step: int, **tags: str) -> Operation:
    return Operation(run=run, do="batch", what={"metrics": [["loss", 0.5, 1000, step]], "tags": tags, "epoch": step})


def creation(key: str, **what: str) -> Operation:
    return Operation(run=key, do="create", what=what)


def die(outbox: Outbox) -> None:
    """As if its process did."""
    os.close(outbox._lock)


def steps(outbox: Outbox, run: str) -> list[int]:
    return [operation.what["metrics"][0][3] for operation in outbox.of_run(run)]


class TestKeys:
    def test_a_key_is_no_id_of_mlflow(self) -> None:
        assert is_key(new_key())
        assert not is_key("0123456789abcdef0123456789abcdef")
        assert not is_key("k")
        assert new_key() != new_key()

    def test_a_trial_has_one_key(self) -> None:
        assert trial_key("parent", 3) == trial_key("parent", 3)
        assert len({trial_key("parent", 3), trial_key("parent", 4), trial_key("other", 3)}) == 3


class TestMerging:
    def test_neighbouring_batches_become_one(self) -> None:
        status = Operation(run="a", do="status", what={"status": "RUNNING"}, number=3)
        first, second = (Operation(**{**vars(batch("a", step, state=str(step))), "number": step}) for step in (1, 2))
        last = Operation(**{**vars(batch("a", 4)), "number": 4})
        found = list(merged([first, second, status, last]))
        assert [numbers for _, numbers in found] == [[1, 2], [3], [4]]
        assert found[0][0].what["metrics"] == [["loss", 0.5, 1000, 1], ["loss", 0.5, 1000, 2]]
        assert found[0][0].what["tags"] == {"state": "2"}  # the later one

    def test_no_batch_is_larger_than_mlflow_takes(self) -> None:
        several = [Operation(run="a", do="batch", what={"metrics": [["loss", 0.5, 0, 0]] * 400})] * 3
        assert [len(operation.what["metrics"]) for operation, _ in merged(several)] == [800, 400]

    def test_nothing_is_nothing(self) -> None:
        assert list(merged([])) == []


class TestOutbox:
    def test_what_was_appended_waits_in_order(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path)
        outbox.append([batch("a", 1), batch("b", 1), batch("a", 2)])
        assert (len(outbox), outbox.runs()) == (3, ["a", "b"])
        assert steps(outbox, "a") == [1, 2]
        assert not any(operation.again for operation in outbox.of_run("a"))

    def test_after_a_death_it_is_still_there(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path)
        outbox.append([batch("a", 1), batch("a", 2)])
        outbox.acknowledge("a", [1], None)
        die(outbox)
        again = Outbox(tmp_path)
        assert steps(again, "a") == [2]
        assert again.of_run("a")[0].again
        again.append([batch("a", 3)])
        assert [operation.number for operation in again.of_run("a")] == [2, 3]

    def test_one_process_holds_it(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path)
        with pytest.raises(OutboxTaken):
            Outbox(tmp_path)
        outbox.close()
        Outbox(tmp_path).close()

    def test_one_run_has_one_order_under_both_its_names(self, tmp_path: Path) -> None:
        key = new_key()
        outbox = Outbox(tmp_path)
        outbox.append([creation(key), batch(key, 1)])
        outbox.append([batch("id", 2)])  # before it is known that both are one
        outbox.acknowledge(key, [1], "id")
        assert outbox.ids == {key: "id"}
        assert steps(outbox, key) == steps(outbox, "id") == [1, 2]
        assert outbox.last_epoch(key) == outbox.last_epoch("id") == 2
        outbox.append([batch("id", 3)])
        assert steps(outbox, key) == [1, 2, 3]
        assert outbox.runs() == [key]
        outbox.close()
        again = Outbox(tmp_path)
        assert (steps(again, "id"), again.last_epoch("id")) == ([1, 2, 3], 3)

    def test_runs_that_are_to_be_created_come_every_other_time(self, tmp_path: Path) -> None:
        first, second = new_key(), new_key()
        outbox = Outbox(tmp_path)
        outbox.append([batch("a", 1), batch("b", 1), creation(first), creation(second)])
        assert [outbox.next_run(set()) for _ in range(3)] == [first, "a", first]
        assert outbox.next_run({"a", first}) == "b"
        assert outbox.next_run({"a", first}) == second
        outbox.acknowledge(first, [3], "id")
        outbox.acknowledge("a", [1], None)
        assert [outbox.next_run(set()) for _ in range(3)] == ["b", second, "b"]
        outbox.acknowledge("b", [2], None)
        outbox.acknowledge(second, [4], "id 2")
        assert outbox.next_run(set()) is None

    def test_the_last_epoch_is_known_until_a_run_ends(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path)
        outbox.append([batch("a", 1), batch("a", 2)])
        outbox.acknowledge("a", [1, 2], None)
        outbox.close()
        outbox = Outbox(tmp_path)
        assert (outbox.last_epoch("a"), outbox.last_epoch("b")) == (2, 0)
        outbox.append([Operation(run="a", do="status", what={"status": "SCHEDULED", "end": None})])
        assert outbox.last_epoch("a") == 2
        outbox.append([Operation(run="a", do="status", what={"status": "FINISHED", "end": 9})])
        assert outbox.last_epoch("a") == 0

    def test_files_are_kept_as_they_were_until_they_are_told(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        (source / "below").mkdir(parents=True)
        (source / "below" / "a.txt").write_text("a")
        outbox = Outbox(tmp_path / "outbox")
        outbox.append([Operation(run="a", do="files", what={"path": ""}, files=source)])
        (source / "below" / "a.txt").unlink()
        outbox.close()
        outbox = Outbox(tmp_path / "outbox")
        (operation,) = outbox.of_run("a")
        assert operation.files is not None
        assert (operation.files / "below" / "a.txt").read_text() == "a"
        outbox.acknowledge("a", [operation.number], None)
        assert not operation.files.exists()

    def test_where_links_cannot_be_files_are_copied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EXDEV, "another file system")

        monkeypatch.setattr("os.link", refuse)
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "a.txt").write_text("a")
        outbox = Outbox(tmp_path / "outbox")
        outbox.append([Operation(run="a", do="files", what={"path": ""}, files=tmp_path / "source")])
        (operation,) = outbox.of_run("a")
        assert operation.files is not None
        assert (operation.files / "a.txt").read_text() == "a"

    def test_files_of_an_append_that_was_cut_short_are_removed(self, tmp_path: Path) -> None:
        (tmp_path / "files" / "7").mkdir(parents=True)
        outbox = Outbox(tmp_path)
        assert list((tmp_path / "files").iterdir()) == []
        outbox.append([batch("a", 1)])
        assert outbox.of_run("a")[0].number == 8  # never that of other files

    def test_a_full_disk_leaves_no_half_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        outbox = Outbox(tmp_path)
        outbox.append([batch("a", 1)])

        def refuse(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

        monkeypatch.setattr("os.fsync", refuse)
        with pytest.raises(OSError, match="no space left"):
            outbox.append([batch("a", 2)])
        monkeypatch.undo()
        assert steps(outbox, "a") == [1]
        outbox.append([batch("a", 3)])
        die(outbox)
        again = Outbox(tmp_path)
        assert (steps(again, "a"), again.damaged) == ([1, 3], 0)

    def test_a_torn_last_line_costs_itself(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path)
        outbox.append([batch("a", 1)])
        outbox.append([batch("a", 2)])
        die(outbox)
        journal = tmp_path / JOURNAL
        journal.write_bytes(journal.read_bytes()[:-5])
        again = Outbox(tmp_path)
        assert (steps(again, "a"), again.damaged) == ([1], 1)
        assert journal.with_name(f"{JOURNAL}.damaged").exists()
        again.append([batch("a", 3)])
        die(again)
        assert steps(Outbox(tmp_path), "a") == [1, 3]

    def test_what_another_held_is_taken_in_under_the_same_names(self, tmp_path: Path) -> None:
        key = new_key()
        dead, living = Outbox(tmp_path / "dead"), Outbox(tmp_path / "living")
        source = tmp_path / "source"
        source.mkdir()
        (source / "a.txt").write_text("a")
        dead.append([creation(key), batch("b", 1), batch(key, 1)])
        dead.acknowledge(key, [1], "id")
        dead.append([batch("id", 2), Operation(run="b", do="files", what={"path": ""}, files=source)])
        living.append([batch("c", 7)])
        living.take_in(dead)
        living.append([batch("id", 3)])
        assert (len(dead), dead.folder / "files" / "5" in (dead.folder / "files").iterdir()) == (0, False)
        assert (steps(living, key), steps(living, "c"), living.ids) == ([1, 2, 3], [7], {key: "id"})
        _, operation = living.of_run("b")
        assert operation.files is not None
        assert (operation.files / "a.txt").read_text() == "a"
        die(dead)
        assert len(Outbox(tmp_path / "dead")) == 0
        die(living)
        assert steps(Outbox(tmp_path / "living"), "id") == [1, 2, 3]

    def test_a_disk_without_room_to_tidy_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        outbox = Outbox(tmp_path)
        outbox.append([batch("a", 1)])

        def refuse(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

        monkeypatch.setattr("os.fsync", refuse)
        outbox.close()
        monkeypatch.undo()
        assert steps(Outbox(tmp_path), "a") == [1]

    def test_when_everything_is_told_nothing_is_left(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path)
        outbox.append([Operation(run="a", do="note", what={"markdown": "text"})])
        outbox.acknowledge("a", [1], None)
        outbox.close()
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


RECORDS = st.lists(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=8), max_size=3), max_size=6)


class TestDamage:
    @given(RECORDS)
    def test_a_whole_journal_is_read_whole(self, records: list[dict[str, object]]) -> None:
        assert read_journal(b"".join(map(journal_line, records))) == (records, 0)

    @given(RECORDS, st.integers(min_value=0))
    def test_a_journal_that_was_cut_loses_its_last_line(self, records: list[dict[str, object]], cut: int) -> None:
        lines = [journal_line(record) for record in records]
        content = b"".join(lines)[: cut % (sum(map(len, lines)) + 1)]
        whole = next(n for n in range(len(lines), -1, -1) if len(b"".join(lines[:n])) <= len(content))
        torn = len(content) > len(b"".join(lines[:whole]))
        assert read_journal(content) == (records[:whole], int(torn))

    @given(RECORDS.filter(bool), st.integers(min_value=0), st.integers(min_value=1, max_value=255))
    def test_a_changed_byte_costs_its_line(self, records: list[dict[str, object]], place: int, change: int) -> None:
        lines = [journal_line(record) for record in records]
        content = bytearray(b"".join(lines))
        place %= len(content)
        hit = next(n for n in range(len(lines)) if place < len(b"".join(lines[: n + 1])))
        content[place] ^= change
        found, damaged = read_journal(bytes(content))
        # A line's end that is gone takes the next line with it.
        last = hit + 1 if place == len(b"".join(lines[: hit + 1])) - 1 else hit
        assert found == records[:hit] + records[last + 1 :]
        assert damaged >= 1

    @given(st.binary(max_size=200))
    def test_anything_can_be_read(self, content: bytes) -> None:
        read_journal(content)


class TestOutboxes:
    def test_a_store_is_named_without_its_login(self, tmp_path: Path) -> None:
        first = Outboxes.of(tmp_path, "https://anna:secret@host:5000/path")
        first.note_reached()
        assert (first.uri, first.whole) == ("https://host:5000/path", False)
        assert first.folder == Outboxes.of(tmp_path, "https://host:5000/path").folder
        assert Outboxes.of(tmp_path, "postgresql://host/db?password=secret").uri == "postgresql://host/db"
        assert stores(tmp_path) == [first]
        assert "secret" not in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())

    def test_a_database_keeps_its_path(self, tmp_path: Path) -> None:
        assert Outboxes.of(tmp_path, "sqlite:////data/mlflow.db").uri == "sqlite:////data/mlflow.db"

    def test_a_second_process_of_a_name_has_an_outbox_beside_the_first(self, tmp_path: Path) -> None:
        outboxes = Outboxes.of(tmp_path, "http://host")
        first, second = outboxes.open("study_unet"), outboxes.open("study_unet")
        assert (first.folder.name, second.folder.name) == ("study_unet", "study_unet+2")
        second.append([batch("a", 1)])
        first.append([batch("b", 1)])
        assert (list(outboxes.waiting()), outboxes.taken()) == ([], 2)
        second.close()
        assert [outbox.folder.name for outbox in outboxes.waiting()] == ["study_unet+2"]
        assert outboxes.taken() == 1

    def test_a_name_stays_in_its_folder(self, tmp_path: Path) -> None:
        outboxes = Outboxes.of(tmp_path, "http://host")
        assert outboxes.open("study_../../up").folder.parent == outboxes.folder

    def test_a_store_that_does_not_say_which(self, tmp_path: Path) -> None:
        outboxes = Outboxes.of(tmp_path, "http://host")
        assert (outboxes.reached, stores(tmp_path)) == (False, [])
        outboxes.note_reached()
        assert outboxes.reached
        (outboxes.folder / "store.json").write_text(json.dumps([]))
        with pytest.raises(UserError, match=r"store.json must be whole, got: .*; delete it, and run the study again"):
            stores(tmp_path)
