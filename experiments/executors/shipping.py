"""Files between machines that share no folder: read here as names and bytes, written there beside their place.

What arrives is written under names that stay within their folder, and renamed into place once it is whole.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from seg.data.manifest import MANIFEST
from seg.errors import UserError

PIECE_BYTES = 64 * 2**20
"""What a large file is cut into: no single object of a cluster's store is larger."""

Stamps = dict[str, tuple[int, int]]
"""Size and time of the last change, in nanoseconds, of files by their names."""


def changed_files(folder: Path, sent: Stamps) -> dict[str, bytes]:
    """The files of a folder that are new or changed since they were noted in `sent`, which is brought up to date.

    Files that are still being written under another name are left out.

    Returns:
        Contents by name, relative to the folder, with slashes.
    """
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file() or _is_partial(path.name):
            continue
        state = path.stat()
        stamp = (state.st_size, state.st_mtime_ns)
        if sent.get(name) != stamp:
            found[name] = path.read_bytes()
            sent[name] = stamp
    return found


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes what `changed_files` found on another machine.

    Raises:
        ValueError: if a name leads out of the folder; nothing is written then.
        OSError: if a file cannot be written.
    """
    for name in files:
        check_name(name)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".partial.{path.name}")
        partial.write_bytes(content)
        partial.replace(path)


def check_name(name: str) -> None:
    """Refuses names that lead out of a folder.

    Raises:
        ValueError: if it does.
    """
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name:
        raise ValueError(f"a file's name must stay within its folder, got {name!r}")


def remove_others(folder: Path, names: Iterable[str]) -> None:
    """Removes the files of a folder that are not among the names."""
    kept = set(names)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_file() and path.name not in kept:
            path.unlink(missing_ok=True)


def content_key(path: Path) -> str | None:
    """What tells a dataset's folder (by its manifest, written last) or a file from any other; None if it is not there.

    Equal keys at the same path on two machines: both see the same files.
    """
    target = path / MANIFEST if path.is_dir() else path
    try:
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def shipped_names(path: Path) -> dict[str, Path]:
    """The files that a job reads of a dataset's folder (not the pictures for people), or the file itself, by name."""
    if path.is_dir():
        return {file.name: file for file in sorted(path.iterdir()) if file.is_file() and file.name[0] != "."}
    return {path.name: path}


def pieces(path: Path) -> Iterator[bytes]:
    """A file's content in pieces."""
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def private_folder() -> Path:
    """Where this user's shipped files lie on a node: in the folder for temporary files, closed to others.

    Raises:
        UserError: if somebody else made it, or it is open to others.
    """
    folder = Path(tempfile.gettempdir()) / f"segmentation-trials-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise UserError(f"{folder} must be a folder of this user alone; remove it.")
    return folder


def fetch_once(store: Path, key: str, fetch: Callable[[Path], None]) -> Path:
    """The folder of a content in the store, fetched unless it is there: once, however many processes ask at a time.

    Args:
        store: holds a folder per content.
        key: hexadecimal hash of the content.
        fetch: writes the content into the empty folder that it is given.
    """
    place = store / key
    store.mkdir(parents=True, exist_ok=True)
    with (store / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            partial = store / f".partial.{key}"
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            partial.mkdir()
            with _removed_on_failure(partial):
                fetch(partial)
                partial.rename(place)
    return place


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_partial(name: str) -> bool:
    return name.startswith(".partial.") or name.endswith(".partial")
