"""The fuzzer finds what is planted, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="has no wheel for this Python")
ROOT = Path(__file__).parents[1]


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("crash", "a crash in C code"),
        ("hang", "no answer within 5 s"),
        ("value", "WrongResult: "),
        ("memory", "too much memory"),
        ("exception", "IndexError: planted"),
    ],
)
def test_planted_faults_are_found_in_both_kinds(tmp_path, fault, message):
    done = fuzz("--inputs", "60000", "--fault", fault, "--findings", str(tmp_path))
    assert (done.returncode, done.stdout.count(message) > 0) == (1, True), done.stdout
    assert "2 findings" in done.stdout
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == ["annotations", "images"]
    # what was saved is no finding of its own: without the planted fault the reader copes with it
    for path in tmp_path.iterdir():
        assert fuzz("--replay", str(path)).stdout.strip() == "accepted"


@pytest.mark.slow
def test_generated_files_are_accepted_or_refused(tmp_path):
    done = fuzz("--inputs", "10000", "--findings", str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "annotations: 5,0" in done.stdout
    assert "0 findings" in done.stdout
