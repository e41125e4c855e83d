"""Several drivers, as programs, share a study whose records are on a real PostgreSQL; and what may happen to them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy

from experiments.storage.leases import LEASE_SECONDS, TAKEN_OVER
from experiments.storage.study_store import read_study
from experiments.tracking.tracker import Tracker
from tests.history import check_history
from tests.postgresql_server import PostgreSQL
from tests.study_setting import Setting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LEASE = 15.0  # seconds; a driver on a busy machine must not miss it


@pytest.fixture(scope="module")
def mlflow_store(postgresql: PostgreSQL) -> str:
    """MLflow's database, its tables made: several first users at once would race for that."""
    url = postgresql.create_database()
    Tracker(url, "first")
    return url


STAYS = "nothing left to start, while other drivers run 1 trial(s): this one waits"


class Shared:
    """A study on PostgreSQL and the programs that drive it."""

    def __init__(self, folder: Path, storage: str, tracking: str = "") -> None:
        self.setting = Setting(folder)
        self.setting.storage = storage
        self.tracking = tracking
        self.programs: list[subprocess.Popen[bytes]] = []
        self.engine = sqlalchemy.create_engine(storage, poolclass=sqlalchemy.NullPool)

    def start(self, trials: int, slots: int = 1, lease: float = LEASE, **environment: str) -> subprocess.Popen[bytes]:
        """Starts one more driver, whose output goes to a file of its own."""
        folder = self.setting.folder
        arguments = [folder, trials, slots, self.tracking, self.setting.storage, lease]
        command = [sys.executable, "-m", "tests.study_setting", *map(str, arguments)]
        surroundings = os.environ | {"MLFLOW_EXPERIMENT_NAME": folder.name} | environment
        with (folder / f"driver_{len(self.programs)}.log").open("wb") as log:
            self.programs.append(subprocess.Popen(command, stdout=log, stderr=log, env=surroundings))
        return self.programs[-1]

    def told(self, program: subprocess.Popen[bytes]) -> str:
        return (self.setting.folder / f"driver_{self.programs.index(program)}.log").read_text()

    def end(self, *programs: subprocess.Popen[bytes]) -> None:
        for program in programs:
            assert program.wait(timeout=300) == 0, self.told(program)

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 240
        while not holds():
            assert time.monotonic() < deadline, f"never {what}: {[self.told(each) for each in self.programs]}"
            time.sleep(0.1)

    def wait_until_trained(self, number: int, epochs: int = 1) -> None:
        """Until the storage knows so many epochs of a trial that still runs."""

        def is_trained() -> bool:
            with contextlib.suppress(sqlalchemy.exc.ProgrammingError), self.engine.connect() as connection:
                found = connection.exec_driver_sql(
                    "SELECT count(*) FROM trial_intermediate_values JOIN trials USING (trial_id) "
                    f"WHERE number = {number} AND state = 'RUNNING'"
                )
                return found.scalar_one() >= epochs
            return False  # no tables yet

        self.wait_until(is_trained, f"had epoch {epochs} of trial {number}")

    def check(self, trials: int, kills: int = 0) -> None:
        check_history("losses", self.setting.storage, self.tracking, self.setting.folder, trials, kills)


@pytest.fixture
def shared(tmp_path: Path, postgresql: PostgreSQL, request: pytest.FixtureRequest) -> Iterator[Shared]:
    """Without MLflow, which takes its time, unless the test is marked to have it."""
    tracking = request.getfixturevalue("mlflow_store") if "mlflow" in request.fixturenames else ""
    shared = Shared(tmp_path, postgresql.create_database(), tracking)
    yield shared
    for program in shared.programs:
        with contextlib.suppress(ProcessLookupError):
            program.kill()  # also ends one that is stopped
        program.wait()


@pytest.fixture
def mlflow() -> None:
    """Has the drivers record in a real MLflow."""


def drivers_of(postgresql: PostgreSQL, url: str) -> dict[int, str]:
    """How the drivers of a storage stand, by process."""
    database = url.rpartition("/")[2]
    return dict(postgresql.execute("SELECT pid, state FROM seg_drivers ORDER BY joined", database))


def dump(url: str) -> dict[str, list[Any]]:
    """Every row of every table of a database."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        tables = sqlalchemy.inspect(connection).get_table_names()
        return {
            table: sorted(map(repr, connection.exec_driver_sql(f'SELECT * FROM "{table}"').all())) for table in tables
        }


@pytest.mark.usefixtures("mlflow")
def test_four_drivers_at_once_share_one_budget(shared: Shared, postgresql: PostgreSQL) -> None:
    shared.setting.plan(dict.fromkeys(range(50), "slow"))
    drivers = [shared.start(trials=10, lease=LEASE_SECONDS) for _ in range(4)]
    shared.end(*drivers)
    shared.check(trials=10)
    rows = read_study(shared.setting.storage, "losses").rows
    assert len(rows) == 10
    shares = [sum(row.driver == driver for row in rows) for driver in {row.driver for row in rows}]
    assert len(shares) >= 3, f"the drivers did not run at once: {shares}"  # a slow start may miss the whole study
    # One of them ended the study, and the others say which.
    states = drivers_of(postgresql, shared.setting.storage)
    assert sorted(states.values()) == ["finished", "left", "left", "left"]
    (ender,) = (pid for pid, state in states.items() if state == "finished")
    for driver in drivers:
        assert (f"its end is left to {os.uname().nodename}, process {ender}" in shared.told(driver)) == (
            driver.pid != ender
        )


@pytest.mark.usefixtures("mlflow")
def test_another_driver_finishes_the_trial_of_one_that_was_killed(shared: Shared) -> None:
    shared.setting.plan(dict.fromkeys(range(50), "slow"))
    killed = shared.start(trials=3)
    shared.wait_until_trained(0, epochs=2)
    other = shared.start(trials=3)
    killed.kill()
    killed.wait()
    assert shared.setting.optuna_states() == ["RUNNING"]
    shared.end(other)
    assert "trial number 0 was left behind by a driver that died: it goes on" in shared.told(other)
    row = read_study(shared.setting.storage, "losses").rows[0]
    (trained,) = shared.setting.folder.glob("studies/losses/trial_0000_*/epochs.txt")
    assert len(trained.read_text().split()) <= row.config.epochs + 1  # from its checkpoint: one epoch again at most
    shared.check(trials=3, kills=1)


@pytest.mark.usefixtures("mlflow")
def test_a_driver_that_was_taken_for_dead_writes_nothing_more(shared: Shared, postgresql: PostgreSQL) -> None:
    shared.setting.plan({0: "slow"})
    stopped = shared.start(trials=3)
    shared.wait_until_trained(0, epochs=2)
    os.kill(stopped.pid, signal.SIGSTOP)
    other = shared.start(trials=3)
    shared.end(other)
    assert psutil.Process(stopped.pid).status() == psutil.STATUS_STOPPED
    assert "trial number 0 was left behind by a driver that died: it goes on" in shared.told(other)
    assert drivers_of(postgresql, shared.setting.storage) == {stopped.pid: "dead", other.pid: "finished"}
    before = dump(shared.setting.storage), dump(shared.tracking)
    os.kill(stopped.pid, signal.SIGCONT)
    assert stopped.wait(timeout=30) == TAKEN_OVER
    time.sleep(1)
    assert (dump(shared.setting.storage), dump(shared.tracking)) == before
    assert f"gave no sign of life for {LEASE:g} s, and another took over its trials" in shared.told(stopped)
    assert "run the same command again to join it" in shared.told(stopped)
    assert "Traceback" not in shared.told(stopped)
    shared.check(trials=3, kills=1)


def test_a_driver_that_nobody_missed_goes_on(shared: Shared, postgresql: PostgreSQL) -> None:
    shared.setting.plan({0: "slow"})
    driver = shared.start(trials=2)
    shared.wait_until_trained(0)
    os.kill(driver.pid, signal.SIGSTOP)
    time.sleep(LEASE + 1)
    expired = "SELECT lease_until < clock_timestamp() FROM seg_drivers"
    assert postgresql.execute(expired, shared.setting.storage.rpartition("/")[2]) == [(True,)]
    os.kill(driver.pid, signal.SIGCONT)
    shared.end(driver)
    assert shared.setting.optuna_states() == ["COMPLETE"] * 2


def test_the_database_is_restarted_while_trials_run(shared: Shared, postgresql: PostgreSQL) -> None:
    shared.setting.plan(dict.fromkeys(range(50), "slow"))
    drivers = [shared.start(trials=6), shared.start(trials=6)]
    shared.wait_until_trained(1)
    postgresql.stop()
    time.sleep(LEASE + 1)  # longer than a lease
    postgresql.start()
    assert "RUNNING" in shared.setting.optuna_states()
    shared.end(*drivers)
    assert shared.setting.optuna_states() == ["COMPLETE"] * 6
    rows = read_study(shared.setting.storage, "losses").rows
    assert len({row.config for row in rows}) == 6
    assert all(list(row.curve) == list(range(1, 9)) for row in rows)
    assert list(shared.setting.tracker.states().values()).count("finished") == 6


@pytest.mark.parametrize("how", ["process", "account"])
def test_another_time_zone_is_no_reason_to_take_a_driver_for_dead(
    shared: Shared, postgresql: PostgreSQL, how: str
) -> None:
    shared.setting.plan({0: "hang"})  # for a minute, in which the second driver looks at the first
    database = shared.setting.storage.rpartition("/")[2]
    if how == "account":
        postgresql.execute(f"ALTER DATABASE {database} SET timezone = 'Asia/Tokyo'")
    first = shared.start(trials=1, **({"PGTZ": "Asia/Tokyo", "TZ": "Asia/Tokyo"} if how == "process" else {}))
    second = shared.start(trials=1)
    shared.wait_until(lambda: STAYS in shared.told(first) + shared.told(second), "looked")
    shared.end(first, second)
    assert set(drivers_of(postgresql, shared.setting.storage).values()) == {"finished", "left"}
    assert "left behind" not in shared.told(first) + shared.told(second)
    assert shared.setting.optuna_states() == ["COMPLETE"]


def test_a_driver_with_nothing_to_start_stays_until_the_others_are_done(shared: Shared) -> None:
    shared.setting.plan({0: "hang"})
    one, another = shared.start(trials=1), shared.start(trials=1)
    shared.wait_until(lambda: STAYS in shared.told(one) + shared.told(another), "waited")
    first, second = (another, one) if STAYS in shared.told(one) else (one, another)
    shared.setting.plan({})
    first.send_signal(signal.SIGINT)
    assert first.wait(30) == 130
    shared.end(second)
    assert "other drivers go on with study 'losses'" in shared.told(first)
    assert shared.setting.optuna_states() == ["COMPLETE"]
    assert [call["run_id"] for call in shared.setting.tracker.calls("start_study")] == ["run-losses"]
    assert "run-losses" not in [call["run_id"] for call in shared.setting.tracker.calls("end")]
