"""Which code a run was made with."""

import functools
import subprocess
from pathlib import Path


@functools.cache
def git_commit() -> str | None:
    """The commit of this project's code, with `-dirty` when files differ from it; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
