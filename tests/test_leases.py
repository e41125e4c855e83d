"""Leases and the queue of trials, between threads of this process that are drivers of one study."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from experiments.command_line.progress import Progress
from experiments.storage.leases import TAKEN_OVER, Lease, Peer
from experiments.storage.study_hold import hold_command, hold_to_repair, note_test_use
from experiments.storage.study_lock import StudyTaken
from experiments.storage.study_store import StudyStore, open_study, read_study
from experiments.studies.search import fingerprint
from experiments.studies.trial_queue import TrialQueue
from tests.mlflow_server import mlflow_server
from tests.postgresql_server import PostgreSQL
from tests.study_setting import make_space
from tests.test_storage import make_identity


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.create_database()


@pytest.fixture
def join(url: str) -> Iterator[Callable[..., Lease]]:
    """Joins the study with one more lease."""
    with ExitStack() as held:
        yield lambda **named: held.enter_context(Lease(sqlalchemy.make_url(url), "losses", **named))
        revive(url)


def expire(url: str, lease: Lease) -> None:
    """As if the driver had given no sign of life for long, and this machine had been there all the time."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        past = "clock_timestamp() - interval '1 hour'"
        connection.exec_driver_sql(f"UPDATE seg_drivers SET lease_until = {past} WHERE driver = '{lease.driver}'")


def revive(url: str) -> None:
    """So that the process of the tests does not end as that of a driver which comes back from the dead does."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE seg_drivers SET state = 'working' WHERE state = 'dead'")


def state_of(url: str, lease: Lease) -> str:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        found = connection.exec_driver_sql(f"SELECT state FROM seg_drivers WHERE driver = '{lease.driver}'")
        return str(found.scalar_one())


def wait_a_lease_after_the_start(postgresql: PostgreSQL, seconds: float) -> None:
    """Nobody is buried before: all may have to find the server again first."""
    ((age,),) = postgresql.execute("SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())")
    time.sleep(max(0.0, seconds - float(age)))


class TestPeers:
    def test_drivers_know_of_each_other(self, join: Callable[..., Lease], url: str) -> None:
        first, second = join(), join()
        (peer,) = first.peers()
        assert str(peer).endswith(f", process {peer.pid}")
        assert first.living() == {first.driver, second.driver}
        assert not first.leaves_last()
        assert second.leaves_last()

    def test_one_driver_ends_the_study(self, join: Callable[..., Lease]) -> None:
        first, second = join(), join()
        assert first.ends_the_study(4) is None
        assert isinstance(second.ends_the_study(4), Peer)

    def test_a_study_that_was_ended_meanwhile_is_not_ended_again(self, join: Callable[..., Lease], url: str) -> None:
        early, another = join(), join()
        with Lease(sqlalchemy.make_url(url), "losses") as other:
            assert other.ends_the_study(4) is None
        assert isinstance(early.ends_the_study(4), Peer)
        with Lease(sqlalchemy.make_url(url), "losses") as again:
            assert again.ends_the_study(4) is None  # the command again does it again
        assert another.ends_the_study(6) is None  # it has more trials than were ended

    def test_a_driver_that_failed_at_the_end_has_not_ended_the_study(
        self, join: Callable[..., Lease], url: str
    ) -> None:
        early = join()

        def fail() -> None:
            with Lease(sqlalchemy.make_url(url), "losses") as other:
                assert other.ends_the_study(4) is None
                raise OSError("disk full")

        with pytest.raises(OSError, match="disk"):
            fail()
        assert early.ends_the_study(4) is None

    def test_a_repair_shares_with_nobody(self, url: str) -> None:
        with open_study(url, make_identity()):
            pass
        with hold_command(url, "losses"), pytest.raises(StudyTaken, match="must be free of drivers while it is repa"):
            hold_to_repair(url, "losses").__enter__()
        with (
            hold_to_repair(url, "losses") as store,
            pytest.raises(StudyTaken, match="and of repairs while it is run"),
            hold_command(url, "losses"),
        ):
            assert store.trials() == []
        with hold_command(url, "losses"):
            pass


class TestTheDead:
    def test_a_driver_is_buried_when_its_lease_ran_out(
        self, join: Callable[..., Lease], url: str, postgresql: PostgreSQL
    ) -> None:
        wait_a_lease_after_the_start(postgresql, 2)
        living, dead = join(seconds=2), join(seconds=3600)
        living.bury()
        assert state_of(url, dead) == "working"
        expire(url, dead)
        living.bury()
        assert state_of(url, dead) == "dead"
        assert living.living() == {living.driver}
        assert living.peers() == []

    def test_its_connections_end_with_it(self, join: Callable[..., Lease], url: str, postgresql: PostgreSQL) -> None:
        """Also one in the middle of a transaction, which holds the study's lock."""
        wait_a_lease_after_the_start(postgresql, 2)
        living, dead = join(seconds=2), join(seconds=3600)

        def write() -> None:
            with dead.alone() as connection:
                expire(url, dead)
                with living.alone():
                    assert state_of(url, dead) == "dead"
                connection.execute(sqlalchemy.text("CREATE TABLE written_by_the_dead (number integer)"))

        with pytest.raises(sqlalchemy.exc.OperationalError, match="terminating connection"):
            write()
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        assert "written_by_the_dead" not in sqlalchemy.inspect(engine).get_table_names()

    def test_nobody_is_buried_before_all_could_find_the_server_again(
        self, join: Callable[..., Lease], url: str
    ) -> None:
        living, dead = join(seconds=3600), join(seconds=3600)  # the server runs for less than that
        expire(url, dead)
        living.bury()
        assert state_of(url, dead) == "working"
        dead.renew()
        dead.check()


def take_all(store: StudyStore, trials: int, sampler: str, taken: list[Any], start: threading.Barrier) -> None:
    queue = TrialQueue(store, make_space(sampler), trials, None, Progress())
    start.wait(60)
    while (found := queue.take()) is not None:
        taken.append(found.row)


class TestTheQueue:
    @pytest.mark.parametrize("sampler", ["grid", "tpe"])
    def test_two_drivers_that_ask_at_once_share_the_budget(self, url: str, sampler: str) -> None:
        taken: tuple[list[Any], list[Any]] = ([], [])
        start = threading.Barrier(2)
        identity = make_identity(space=make_space(sampler))
        with open_study(url, identity) as first, open_study(url, identity) as second:
            stores = zip((first, second), taken, strict=True)
            threads = [
                threading.Thread(target=take_all, args=(store, 12, sampler, each, start)) for store, each in stores
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
            rows = [row for row in first.trials() if row.state == "running"]
            repeated = len(first.trials()) - len(rows)
            owners = Counter(row.driver for row in rows)
        assert len(taken[0]) + len(taken[1]) == len(rows) == 12
        assert min(map(len, taken)) >= 1, "they did not ask at once"
        assert sorted(owners.values()) == sorted(map(len, taken))
        assert repeated <= 2  # their samplers have seeds of their own
        assert len({fingerprint(row.config) for row in rows if row.config is not None}) == 12

    def test_what_the_dead_left_is_taken_first_and_what_the_living_run_is_not(
        self, url: str, postgresql: PostgreSQL
    ) -> None:
        wait_a_lease_after_the_start(postgresql, 2)
        with ExitStack() as held:
            leases = [
                held.enter_context(Lease(sqlalchemy.make_url(url), "losses", seconds=seconds))
                for seconds in (2, 3600, 3600)
            ]
            stores = [held.enter_context(open_study(url, make_identity(), lease)) for lease in leases]
            queues = [TrialQueue(store, make_space(), 4, None, Progress()) for store in stores]
            for queue in queues[1:]:
                found = queue.take()
                assert found is not None
                assert not found.resumed
            expire(url, leases[2])
            found = queues[0].take()
            assert found is not None
            assert (found.row.number, found.resumed) == (1, True)
            assert queues[0].elsewhere == 1
            rows = stores[0].trials()
            assert [row.driver for row in rows] == [leases[1].driver, leases[0].driver]
            for store, number in ((stores[0], 1), (stores[1], 0)):
                store.fail(number, "over")
            revive(url)

    def test_the_test_split_is_noted_once(self, url: str) -> None:
        with open_study(url, make_identity()) as store:
            store.ask(make_space().arms()[0])
            note_test_use(url, "losses", 0)  # while the driver is there
            note_test_use(url, "losses", 0)
        assert [use.trial for use in read_study(url, "losses").test_uses] == [0]


RETURNED = """
import os, signal, sys
from pathlib import Path
from experiments.storage import leases
import sqlalchemy
from experiments.tracking.tracker import Tracker
from tests.tiny import write_tiny
leases._RENEWALS = 0.001  # no thread that would notice first
storage, tracking, folder = sys.argv[1:]
tracker = Tracker(tracking, "fenced")
with leases.Lease(sqlalchemy.make_url(storage), "losses", seconds=2) as lease:
    run = tracker.delivered(tracker.start_study("losses", {}, write_tiny(Path(folder))))
    tracker.log_tags(run, {"before": "yes"})
    print(run, flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    tracker.log_tags(run, {"after": "yes"})
print("went on")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["server", "database"])
def test_one_that_was_taken_for_dead_writes_nothing_to_mlflow(
    url: str, postgresql: PostgreSQL, tmp_path: Path, kind: str
) -> None:
    with ExitStack() as held:
        tracking = held.enter_context(mlflow_server(tmp_path)) if kind == "server" else postgresql.create_database()
        program = subprocess.Popen(
            [sys.executable, "-c", RETURNED, url, tracking, str(tmp_path / "tiny")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        run = program.stdout.readline().strip()
        assert run, program.communicate()
        time.sleep(3)
        with Lease(sqlalchemy.make_url(url), "losses", seconds=2) as other:
            other.bury()
            assert other.peers() == []
        program.send_signal(18)  # SIGCONT
        told, errors = program.communicate(timeout=60)
        assert (program.returncode, told) == (TAKEN_OVER, ""), errors
        assert "gave no sign of life for 2 s" in errors
        import mlflow

        tags = mlflow.MlflowClient(tracking).get_run(run).data.tags
        assert "before" in tags
        assert "after" not in tags
