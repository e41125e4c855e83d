"""The files of an export: where they may lie, and the hash of the images' bytes, remembered between calls."""

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seg.data.images import MAX_BYTES
from seg.data.segmentation import BrokenRule
from seg.errors import UserError

MAX_ANNOTATIONS = 2 * 1024**3  # bytes; four times the largest file of COCO itself, and read at once
_RACY = 2 * 10**9  # ns; a file this young may change again within one tick of the file system's clock
_THREADS = 2
_BATCH = 64  # files; one at a time, handing over takes as long as hashing


class ImageFolder:
    """The image folder of a split, in which files are looked for; that its own folders are no links is asked once.

    Args:
        folder: where it lies.
        export: the resolved folder that the files must lie in, links followed.
    """

    def __init__(self, folder: Path, export: Path) -> None:
        self._folder = folder
        self._export = export
        self._linked: dict[str, bool] = {}  # by what stands before the last slash of a file name

    def locate(self, file_name: str) -> tuple[Path, os.stat_result]:
        """The file that a checked `file_name`, relative to the folder, stands for, and what the system says of it.

        Raises:
            BrokenRule: if it is missing, no regular file, too large, or outside the export.
        """
        path = self._folder / file_name
        try:
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode) or self._behind_link(path, file_name):
                if not Path(os.path.realpath(path)).is_relative_to(self._export):
                    raise BrokenRule("link_outside", f"{path} must not be a link out of {self._export}")
                found = path.stat()
        except FileNotFoundError:
            raise BrokenRule("missing_file", f"{path} does not exist") from None
        except OSError as error:
            raise BrokenRule("unreadable_file", f"{path} cannot be read ({error.strerror})") from None
        if not stat.S_ISREG(found.st_mode):
            raise BrokenRule("unreadable_file", f"{path} is not a file")
        if found.st_size > MAX_BYTES:
            raise BrokenRule("file_too_large", f"{path} must have at most {MAX_BYTES} bytes, got {found.st_size}")
        return path, found

    def _behind_link(self, path: Path, file_name: str) -> bool:
        inner = file_name.rpartition("/")[0]
        if inner not in self._linked:
            folders = path.parents[: file_name.count("/") + 1]
            self._linked[inner] = any(folder.is_symlink() for folder in folders)
        return self._linked[inner]


def read_annotation_file(path: Path, export: Path) -> bytes:
    """The bytes of an annotation file, which keeps the rules that image files keep.

    Args:
        path: of the file.
        export: the folder that it must lie in, links followed.

    Raises:
        UserError: if it is missing, no regular file, has more than `MAX_ANNOTATIONS` bytes, or lies elsewhere.
    """
    try:
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(export)):
            raise UserError(f"{path} must not be a link out of {export}; put the file itself there.")
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise UserError(f"{path} must be a file, and is none; export it again.")
        if found.st_size > MAX_ANNOTATIONS:
            raise UserError(
                f"{path} must have at most {MAX_ANNOTATIONS} bytes, got {found.st_size}; divide the dataset."
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check it.") from None


class HashCache:
    """SHA-256 of files by path, size, times and inode; a file is read again only when one of them changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        self._known: dict[str, list[int | str]] = known if isinstance(known, dict) else {}
        self._asked: dict[Path, os.stat_result] = {}
        self._changed = False

    def hashes(self, files: Iterable[tuple[Path, os.stat_result]]) -> list[str | BrokenRule]:
        """The hash of each file, or why it cannot be read; in the given order."""
        listed = list(files)
        batches = [listed[start : start + _BATCH] for start in range(0, len(listed), _BATCH)]
        with ThreadPoolExecutor(_THREADS) as threads:
            hashed = threads.map(lambda batch: [self._hash(*file) for file in batch], batches)
            return [digest for batch in hashed for digest in batch]

    def save(self) -> None:
        """Writes what is new beside the old file, then renames it."""
        if self._changed:
            partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            partial.write_text(json.dumps(self._known), encoding="utf-8")
            partial.replace(self._path)

    def known(self, path: Path, found: os.stat_result) -> str | BrokenRule:
        """The hash of a file if it is remembered, else empty: `learn` may tell it later; or why it cannot be read."""
        known = self._known.get(str(path))
        if isinstance(known, list) and known[:-1] == _signature(found):
            return str(known[-1])
        if not os.access(path, os.R_OK):
            return BrokenRule("unreadable_file", f"{path} cannot be read ({os.strerror(errno.EACCES)})")
        if _is_settled(found):
            self._asked[path] = found
        return ""

    def learn(self, path: Path, digest: str) -> None:
        """Remembers the hash of a file that somebody else has read since `known` was asked."""
        if path in self._asked:
            self._remember(path, self._asked[path], digest)

    def _hash(self, path: Path, found: os.stat_result) -> str | BrokenRule:
        if known := self.known(path, found):
            return known
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            return BrokenRule("unreadable_file", f"{path} cannot be read ({error.strerror})")
        if _is_settled(found):
            self._remember(path, found, digest)
        return digest

    def _remember(self, path: Path, found: os.stat_result, digest: str) -> None:
        self._known[str(path)] = [*_signature(found), digest]
        self._changed = True


def _signature(found: os.stat_result) -> list[int | str]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _is_settled(found: os.stat_result) -> bool:
    return time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _RACY
