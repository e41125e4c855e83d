"""Entry points end as promised: one line for a mistake, exit codes that mean something."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from experiments.command_line import entry
from experiments.tracking.delivery import NotDelivered
from seg.errors import UserError


@pytest.fixture(autouse=True)
def handler_of_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ended_with(main: entry.Main) -> object:
    with pytest.raises(SystemExit) as ended:
        entry.run(main)
    return ended.value.code


def test_code_of_main_is_the_exit_code() -> None:
    assert ended_with(lambda arguments: 0) == 0
    assert ended_with(lambda arguments: entry.FAILED) == 1


def test_mistake_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: Sequence[str] | None) -> int:
        raise UserError("batch_size must be at least 1, got 0.")

    assert ended_with(main) == 2
    assert capsys.readouterr().err == "error: batch_size must be at least 1, got 0.\n"


def test_what_mlflow_was_not_told_is_the_last_line_and_code_5(capsys: pytest.CaptureFixture[str]) -> None:
    class Told:
        def undelivered(self) -> str:
            return ""

    class Untold:
        def undelivered(self) -> str:
            return "not yet delivered to MLflow: 2 operation(s)"

    assert ended_with(lambda arguments: entry.done(Told())) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
    assert ended_with(lambda arguments: entry.done(Untold())) == 5  # type: ignore[arg-type]
    assert capsys.readouterr().out == "not yet delivered to MLflow: 2 operation(s)\n"


def test_what_mlflow_must_answer_first_is_one_line_and_code_5(capsys: pytest.CaptureFixture[str]) -> None:
    def main(arguments: Sequence[str] | None) -> int:
        raise NotDelivered("MLflow must answer")

    assert ended_with(main) == 5
    assert capsys.readouterr().err == "not finished: MLflow must answer\n"


def test_interruption_is_code_130() -> None:
    def main(arguments: Sequence[str] | None) -> int:
        raise KeyboardInterrupt

    assert ended_with(main) == 130


def test_sigterm_is_an_interruption() -> None:
    code = (
        "import os, signal, time\nfrom experiments.command_line import entry\n"
        "def main(arguments):\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(10)\n"
        "    finally:\n        print('settled', flush=True)\n"
        "entry.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "settled\n", "interrupted\n")


def test_a_bug_keeps_its_traceback() -> None:
    def main(arguments: Sequence[str] | None) -> int:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        entry.run(main)


def test_launch_removes_what_children_would_misread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    assert entry.read_launch() == entry.Launch("sqlite:///elsewhere.db", "abc")
    assert "MLFLOW_RUN_ID" not in os.environ
    assert "MLFLOW_EXPERIMENT_ID" not in os.environ


def test_launch_without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    assert entry.read_launch() == entry.Launch(None, None)
