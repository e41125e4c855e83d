"""`Outbox`: what MLflow has still to be told, on disk. Whatever dies, a later command tells what was appended.

A folder with `operations.jsonl`, of which every line is a checksum and a JSON object, and `files/NUMBER` for the files
of an operation: links where the file system has them, copies elsewhere. One process holds it at a time. A line that is
torn or damaged is passed over, and costs what it said.
"""

import fcntl
import json
import os
import shutil
import threading
import zlib
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.tracking.operations import Operation

JOURNAL = "operations.jsonl"


class OutboxTaken(Exception):
    """Another process holds the outbox."""


def journal_line(record: Mapping[str, Any]) -> bytes:
    """A record as the journal has it."""
    text = json.dumps(record).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_journal(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The records of a journal in order, and how many of its lines are torn or damaged."""
    records = []
    lines = content.splitlines(keepends=True)
    for line in lines:
        checksum, _, text = line.removesuffix(b"\n").partition(b" ")
        if line.endswith(b"\n") and checksum == b"%08x" % zlib.crc32(text):
            records.append(json.loads(text))
    return records, len(lines) - len(records)


class Outbox:
    """Operations in the order in which they were appended; for several threads.

    Args:
        folder: where it lies; made where it is missing.

    Attributes:
        ids: MLflow's ids of runs that are known by their keys.
        damaged: lines that could not be read when it was opened; the file lies beside it as `….damaged`.

    Raises:
        OutboxTaken: if another process holds it.
        OSError: if the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids: dict[str, str] = {}
        self.damaged = 0
        self._changing = threading.RLock()
        self._keys: dict[str, str] = {}
        self._epochs: dict[str, int] = {}
        # In the order of each run's oldest operation.
        self._waiting: dict[str, list[Operation]] = {}
        self._to_create: dict[str, None] = {}
        self._created_last = False
        self._next = 1
        folder.mkdir(parents=True, exist_ok=True)
        # The file stays: removing it would let two processes lock two files of the same name.
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise OutboxTaken from None
        self._load()

    def __len__(self) -> int:
        """How many operations wait."""
        with self._changing:
            return sum(map(len, self._waiting.values()))

    def runs(self) -> list[str]:
        """The runs that have operations waiting."""
        with self._changing:
            return list(self._waiting)

    def last_epoch(self, run: str) -> int:
        """The last epoch that was appended for a run that has not ended; 0 if none is known."""
        with self._changing:
            return self._epochs.get(self._keys.get(run, run), 0)

    def append(self, operations: Sequence[Operation]) -> None:
        """Appends operations, which are on disk when this returns: all, or on an error none.

        Raises:
            OSError: if there is no room.
        """
        with self._changing:
            placed = []
            try:
                for number, operation in enumerate(operations, self._next):
                    files = None if operation.files is None else self._take(operation.files, number)
                    run = self._keys.get(operation.run, operation.run)
                    placed.append(replace(operation, run=run, files=files, number=number))
                self._write(b"".join(journal_line(_record(operation)) for operation in placed), durable=True)
            except OSError:
                for number in range(self._next, self._next + len(operations)):
                    shutil.rmtree(self._files(number), ignore_errors=True)
                raise
            self._next += len(placed)
            for operation in placed:
                self._note(operation)

    def next_run(self, passed_over: Container[str]) -> str | None:
        """The run to tell of next, in turn one to be created and the one that waits longest; None: none is left.

        A trial starts by the id of its run, if that is there soon; and what is over is not to wait for all that start.
        """
        with self._changing:
            created = next((run for run in self._to_create if run not in passed_over), None)
            longest = next((run for run in self._waiting if run not in passed_over), None)
            run = longest if self._created_last and longest is not None else created or longest
            self._created_last = run is not None and run in self._to_create
            return run

    def of_run(self, run: str) -> list[Operation]:
        """What waits for a run, in order."""
        with self._changing:
            return list(self._waiting.get(self._keys.get(run, run), ()))

    def tell_again(self, run: str) -> None:
        """Notes that a run's operations may have been told already."""
        with self._changing:
            if run in self._waiting:
                self._waiting[run] = [replace(operation, again=True) for operation in self._waiting[run]]

    def acknowledge(self, run: str, numbers: Iterable[int], run_id: str | None) -> None:
        """Notes that operations of a run were told, and what MLflow calls a run that is known by a key."""
        with self._changing:
            done = set(numbers)
            ids = {} if run_id is None or self.ids.get(run) == run_id else {run: run_id}
            # Not durable: what is forgotten of it is told again.
            self._write(journal_line({"done": sorted(done), "ids": ids}), durable=False)
            self._learn(ids)
            self._forget(run, done)
            for number in done:
                shutil.rmtree(self._files(number), ignore_errors=True)

    def take_in(self, other: "Outbox") -> None:
        """Appends what another outbox holds and empties that one; who dies in between has it told twice."""
        with self._changing:
            for run, run_id in other.ids.items():
                self.acknowledge(run, (), run_id)
            waiting = (operation for run in other.runs() for operation in other.of_run(run))
            self.append(sorted(waiting, key=lambda each: each.number))
        for run in other.runs():
            other.acknowledge(run, [operation.number for operation in other.of_run(run)], None)

    def close(self) -> None:
        """Gives the outbox back."""
        with self._changing:
            with suppress(OSError):  # no room to tidy up: the journal is whole
                self._rewrite()
            os.close(self._lock)

    def _load(self) -> None:
        journal = self.folder / JOURNAL
        try:
            records, self.damaged = read_journal(journal.read_bytes())
        except FileNotFoundError:
            records = []
        if self.damaged:
            shutil.copyfile(journal, journal.with_name(f"{JOURNAL}.damaged"))
        where: dict[int, str] = {}
        for record in records:
            self._learn(record.get("ids", {}))
            self._epochs |= record.get("epochs", {})
            if "do" in record:
                number = record["number"]
                files = self._files(number) if record["files"] else None
                run = self._keys.get(record["run"], record["run"])
                self._note(Operation(**record | {"run": run, "files": files, "again": True}))
                where[number] = run
                self._next = max(self._next, number + 1)
            for number in record.get("done", ()):
                if (run := where.get(number)) is not None:
                    self._forget(self._keys.get(run, run), {number})
        known = {operation.number for waiting in self._waiting.values() for operation in waiting}
        for folder in (self.folder / "files").glob("*"):
            if folder.name.isdecimal():
                self._next = max(self._next, int(folder.name) + 1)
            if not folder.name.isdecimal() or int(folder.name) not in known:
                shutil.rmtree(folder, ignore_errors=True)
        self._rewrite()

    def _note(self, operation: Operation) -> None:
        run = operation.run
        if run not in self._waiting and operation.do == "create":
            self._to_create[run] = None
        self._waiting.setdefault(run, []).append(operation)
        if (epoch := operation.what.get("epoch")) is not None:
            self._epochs[run] = max(epoch, self._epochs.get(run, 0))
        if operation.do == "status" and operation.what.get("end") is not None:
            self._epochs.pop(run, None)  # it goes on no more

    def _forget(self, run: str, done: Container[int]) -> None:
        left = [operation for operation in self._waiting.pop(run, ()) if operation.number not in done]
        if left:
            self._waiting[run] = left
        if not left or left[0].do != "create":
            self._to_create.pop(run, None)

    def _learn(self, ids: Mapping[str, str]) -> None:
        self.ids |= ids
        for key, run_id in ids.items():
            self._keys[run_id] = key
            if (epoch := self._epochs.pop(run_id, None)) is not None:
                self._epochs[key] = max(epoch, self._epochs.get(key, 0))
            if by_id := self._waiting.pop(run_id, None):  # one run, one order
                both = self._waiting.get(key, []) + [replace(each, run=key) for each in by_id]
                self._waiting[key] = sorted(both, key=lambda each: each.number)

    def _files(self, number: int) -> Path:
        return self.folder / "files" / str(number)

    def _take(self, source: Path, number: int) -> Path:
        """The files of a folder as they are now."""
        place = self._files(number)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place, copy_function=_link_or_copy)
        return place

    def _write(self, lines: bytes, *, durable: bool) -> None:
        with (self.folder / JOURNAL).open("ab") as journal:
            before = journal.tell()
            try:
                journal.write(lines)
                journal.flush()
                if durable:
                    os.fsync(journal.fileno())
            except OSError:
                journal.truncate(before)  # half a line would spoil the next one
                raise

    def _rewrite(self) -> None:
        """Leaves out of the journal what is done with."""
        epochs = self._epochs
        ids = {key: run_id for key, run_id in self.ids.items() if key in self._waiting or key in epochs}
        waiting = sorted((each for run in self._waiting.values() for each in run), key=lambda each: each.number)
        journal = self.folder / JOURNAL
        if not waiting and not epochs:
            journal.unlink(missing_ok=True)
            return
        lines = [journal_line({"ids": ids, "epochs": epochs}), *(journal_line(_record(each)) for each in waiting)]
        partial = journal.with_name(f"{JOURNAL}.partial")
        with partial.open("wb") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(journal)


def _record(operation: Operation) -> dict[str, Any]:
    return {
        "number": operation.number,
        "run": operation.run,
        "do": operation.do,
        "what": operation.what,
        "files": operation.files is not None,
    }


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        with open(target, "rb") as copied:
            os.fsync(copied.fileno())
