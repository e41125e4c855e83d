"""`PredictionJournal`: what `predict` has done in a folder, one JSON line per file, so that the same command goes on.

A line counts only for the settings and the image that it was made with; of several, the last one counts. A process
that is killed leaves at most half a line at the end, which is no JSON and is passed over.
"""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from seg.errors import UserError

Record = dict[str, Any]


class PredictionJournal:
    """Opens the journal for one process, in memory that does not grow with the masks.

    Args:
        path: of the journal; it is made where there is none, in a folder that exists.
        settings: key of everything but the image that decides about a prediction.

    Raises:
        UserError: if another process has it.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self._settings = settings
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                f"output must have one predict at a time, and another process is writing to {path.parent}; "
                "wait for it, or choose another --output."
            ) from None
        self._places: dict[str, tuple[str, int]] = {}  # by name: the image's hash, where its line begins
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def find(self, name: str, image: str) -> Record | None:
        """What was added under this name for the image with this hash; None where nothing was."""
        known, place = self._places.get(name, ("", 0))
        if known != image:
            return None
        self._file.seek(place)
        record: Record = json.loads(self._file.readline())["record"]
        return record

    def add(self, name: str, image: str, record: Mapping[str, Any]) -> None:
        """Notes that a file is done, once its pictures are in their places.

        Args:
            name: of the pictures.
            image: hash of the file's bytes.
            record: ready for JSON.
        """
        line = {"name": name, "settings": self._settings, "image": image, "record": dict(record)}
        place = self._file.seek(0, 2)
        self._file.write(json.dumps(line).encode("ascii") + b"\n")
        self._file.flush()
        self._places[name] = (image, place)

    def _read(self) -> None:
        self._file.seek(0)
        place, line = 0, b"\n"
        for line in self._file:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
                if entry is not None and entry["settings"] == self._settings:
                    self._places[entry["name"]] = (entry["image"], place)
            except (ValueError, TypeError, KeyError):
                pass  # its file is predicted again
            place += len(line)
        if not line.endswith(b"\n"):
            self._file.write(b"\n")
            self._file.flush()
