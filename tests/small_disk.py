"""A real disk that is full when a test says so."""

import errno
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BLOCK = 4096
_FILLING = ".filling"


class SmallDisk:
    """A file system of a few MiB of its own where this process may mount one, else a limit on the size of files.

    Attributes:
        folder: on the disk.
        mounted: whether it is a file system of its own.
    """

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder = folder
        self.mounted = mounted

    @contextmanager
    def full(self, room: int = 0) -> Iterator[None]:
        """There is no room while the block runs; both ends may lie in different functions.

        Args:
            room: bytes that are left. Without a file system of its own, the size that no file may exceed; 0 means that
                the largest may not grow.
        """
        self.fill(room)
        try:
            yield
        finally:
            self.make_room()

    def fill(self, room: int = 0) -> None:
        if not self.mounted:
            largest = max((file.stat().st_size for file in self.folder.rglob("*") if file.is_file()), default=0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room or largest, resource.RLIM_INFINITY))
            return
        with (self.folder / _FILLING).open("ab", buffering=0) as filling:
            try:
                while True:
                    filling.write(bytes(_BLOCK))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            filling.truncate(filling.tell() - room)

    def make_room(self) -> None:
        if self.mounted:
            (self.folder / _FILLING).unlink(missing_ok=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextmanager
def small_disk(folder: Path, size: int, mount: bool = True) -> Iterator[SmallDisk]:
    """A disk of so many bytes at an empty folder.

    Args:
        mount: whether to try a file system of its own.
    """
    mounted = mount and os.geteuid() == 0 and _run("mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(folder))
    disk = SmallDisk(folder, mounted)
    try:
        yield disk
    finally:
        disk.make_room()
        if mounted:
            assert _run("umount", str(folder)) or _run("umount", "--lazy", str(folder))


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def can_mount() -> bool:
    """Whether this process may mount a file system: not without root, and not in most containers."""
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder), 2**20) as disk:
        return disk.mounted
