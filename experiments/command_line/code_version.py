"""Which code a run was made with."""

import functools
import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

_PACKAGES = ("seg", "experiments")
_COMMIT, _CHANGES = "SEG_GIT_COMMIT", "SEG_UNCOMMITTED_CHANGES"  # of code that was sent here from its repository


@functools.cache
def git_commit() -> str | None:
    """The commit of this project's code, with `-dirty` when files differ from it; None outside a repository."""
    if _COMMIT in os.environ:
        return os.environ[_COMMIT] or None
    described = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return None if described is None else described.decode().strip() or None


@functools.cache
def uncommitted_changes() -> str:
    """Hash of what differs from the commit in tracked files; empty where nothing does, or there is no repository."""
    if _CHANGES in os.environ:
        return os.environ[_CHANGES]
    changes = _git("diff", "HEAD", "--binary", "--no-ext-diff", "--no-color")
    return hashlib.sha256(changes).hexdigest()[:20] if changes else ""


def code_variables() -> dict[str, str]:
    """Environment variables that tell a process on another machine, which runs this code, what it is."""
    return {_COMMIT: git_commit() or "", _CHANGES: uncommitted_changes()}


def loaded_code() -> dict[str, str]:
    """Hashes of this project's files that this process has imported, by path: `seg/losses.py`.

    Unlike the commit, they are there without a repository, and say nothing of code that took no part. A file's hash is
    that of the first call after its import, whatever was written since: see `note_code`.
    """
    files = {Path(file) for module in tuple(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    found = {}
    for package in _PACKAGES:  # each may lie in a folder of its own
        root = Path(str(importlib.import_module(package).__file__)).parent
        for file in sorted(files):
            if file.is_relative_to(root) and file.is_file():
                name = f"{package}/{file.relative_to(root).as_posix()}"
                found[name] = _hash(file)
    return found


def note_code() -> None:
    """Keeps what this process's code is: called right after its imports, because the files may change before it ends.

    A process that is forked from this one keeps it too.
    """
    loaded_code()
    git_commit()
    uncommitted_changes()


@functools.cache
def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:20]


def remote_urls() -> str:
    """The addresses of the repository's remotes, one per line, which `mlflow run` makes tags of; empty without one."""
    return (_git("config", "--get-regexp", r"^remote\..*\.url$") or b"").decode(errors="replace")


def _git(*arguments: str) -> bytes | None:
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout
