"""What the driver asks of the storage for each trial, and in which order it does things with many slots."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from benchmarks.load import IdleExecutor, Meter
from experiments.command_line.progress import Progress
from experiments.jobs.messages import Job
from experiments.studies.driver import run_study
from tests.study_setting import Setting, make_manifest, make_space


class Recording(IdleExecutor):
    """Notes what it was told, in order."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots, Meter(10**6, slots, dict, lambda point: None))
        self.told: list[str] = []

    def submit(self, job: Job) -> None:
        self.told.append("submit")
        super().submit(job)

    def answer(self, job: Job, go_on: bool) -> None:
        self.told.append("answer")
        super().answer(job, go_on)


def run(setting: Setting, trials: int, slots: int) -> Recording:
    with Recording(slots) as executor:
        run_study(
            study=setting.study,
            space=make_space(),
            trials=trials,
            manifest=make_manifest(setting.folder),
            workspace=setting.folder,
            storage=setting.storage,
            executor=executor,
            tracker=setting.tracker,  # type: ignore[arg-type]
            progress=Progress(setting.output),
        )
    return executor


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Those of every SQL engine, as far as this thread sends them: a thread of an earlier test may still end."""
    found: list[str] = []
    own = threading.get_ident()

    def note(connection: object, cursor: object, statement: str, *more: object) -> None:
        if threading.get_ident() == own:
            found.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    yield found
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def test_a_trial_is_heard_before_all_slots_are_filled(tmp_path: Path) -> None:
    """To start a trial may take half a second where MLflow is slow, and nobody's epoch waits for 64 of them."""
    executor = run(Setting(tmp_path), trials=8, slots=8)
    assert executor.told[:4] == ["submit", "answer", "submit", "answer"]
    assert executor.told.count("submit") == 8
    assert executor.told.count("answer") == 16  # two epochs each


def test_a_trial_takes_as_many_statements_whatever_there_was_before(tmp_path: Path, statements: list[str]) -> None:
    setting = Setting(tmp_path)
    counts = []
    for trials in (1, 5, 9):  # the start of a command, then with four trials, then with four others
        before = len(statements)
        run(setting, trials, slots=1)
        counts.append(len(statements) - before)
    start, four, others = counts
    assert four == others
    assert (four - start) / 3 <= 20, f"{(four - start) / 3} statements per trial"
