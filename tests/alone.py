"""Tests that need a process of their own: pytest runs their file there, as one test."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_ALONE = "TESTED_ALONE"
_SECONDS = 280  # pytest ends the calling test soon after, and would not show what was said
is_alone = _ALONE in os.environ
only_alone = pytest.mark.skipif(not is_alone, reason="its file is run once more in a process of its own")


def check_alone(file: str, *options: str) -> None:
    """Runs the tests of a file in a new process, where `is_alone`; there, the calling test is skipped.

    Args:
        file: the test file.
        options: further options of pytest.
    """
    if is_alone:
        pytest.skip("it is what runs now")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", "addopts="]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, *options, file],
        env=environment | {_ALONE: "1"},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d\d passed", done.stdout), done.stdout
