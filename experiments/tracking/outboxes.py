"""The outboxes of a workspace: a folder for each tracking store, and in it one outbox for each study or run.

A store's folder names it in `store.json`, without user, password and query.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from experiments.tracking.outbox import JOURNAL, Outbox, OutboxTaken
from experiments.tracking.tracking_uri import sqlite_path
from seg.errors import UserError
from seg.page import write_whole

FOLDER = "outbox"  # in the workspace
_STORE = "store.json"


@dataclass(frozen=True)
class Outboxes:
    """The outboxes of one tracking store.

    Attributes:
        folder: holds them.
        uri: of the store, without user, password and query.
        whole: whether that is all of its URI.
    """

    folder: Path
    uri: str
    whole: bool

    @classmethod
    def of(cls, workspace: Path, uri: str) -> "Outboxes":
        """Those of the store at a URI."""
        shown = _without_login(uri)
        name = hashlib.sha256(shown.encode()).hexdigest()[:16]
        return cls(workspace.absolute() / FOLDER / name, shown, shown == uri)

    @property
    def reached(self) -> bool:
        """Whether the store answered a command of this workspace before."""
        return (self.folder / _STORE).is_file()

    def note_reached(self) -> None:
        """Notes that it answered."""
        if not self.reached:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / _STORE, json.dumps({"uri": self.uri, "whole": self.whole}))

    def open(self, name: str) -> Outbox:
        """The outbox of this name, or, while others hold it, one beside it."""
        name = re.sub(r"[^\w.-]", "_", name)[:120]
        for number in range(1, 1000):
            try:
                # No study's name has a plus.
                return Outbox(self.folder / (name if number == 1 else f"{name}+{number}"))
            except OutboxTaken:
                continue
        raise OutboxTaken

    def waiting(self) -> Iterator[Outbox]:
        """Every outbox that holds something and that no process holds; open while it is looked at."""
        for journal in sorted(self.folder.glob(f"*/{JOURNAL}")):
            try:
                outbox = Outbox(journal.parent)
            except OutboxTaken:
                continue
            with closing(outbox):
                if len(outbox):
                    yield outbox

    def taken(self) -> int:
        """How many outboxes a process holds that is at work."""
        count = 0
        for lock in self.folder.glob("*/lock"):
            try:
                Outbox(lock.parent).close()
            except OutboxTaken:
                count += 1
        return count


def stores(workspace: Path) -> list[Outboxes]:
    """The stores that a workspace has outboxes of.

    Raises:
        UserError: if a folder does not say of which.
    """
    found = []
    for path in sorted((workspace.absolute() / FOLDER).glob(f"*/{_STORE}")):
        try:
            store = json.loads(path.read_text(encoding="utf-8"))
            found.append(Outboxes(path.parent, store["uri"], store["whole"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} must be whole, got: {error}; delete it, and run the study again.") from None
    return found


def _without_login(uri: str) -> str:
    if sqlite_path(uri):
        return uri
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
