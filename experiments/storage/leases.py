"""Leases: which drivers share a study on PostgreSQL, which of them live, and which one ends it.

Every driver is a row of the table `seg_drivers` in the storage's own database. A thread renews its lease, by the
database's clock. A driver whose lease ran out is buried by any other: its connections are ended first, then its trials
may go on elsewhere. A driver that was buried and comes back ends its process before it writes anything more.
"""

import hashlib
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, Self

import sqlalchemy
from sqlalchemy import text

from experiments.storage import fence
from experiments.storage.patience import patiently
from experiments.storage.study_lock import StudyTaken

TAKEN_OVER = 6
"""Exit code of a driver that was taken for dead."""

LEASE_SECONDS = 60.0
_RENEWALS = 6  # per lease
_LOCK_NOT_AVAILABLE = "55P03"
_PAUSE = 0.1

Role = Literal["driver", "repair"]
_LIVING = "('working', 'leaving', 'finishing')"
_TABLE = """
CREATE TABLE IF NOT EXISTS seg_drivers (
    driver text PRIMARY KEY,
    study text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    role text NOT NULL,
    state text NOT NULL,  -- working, leaving or finishing; dying, dead; left or finished
    joined timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    ended timestamptz,
    trials integer  -- that had finished when it began to end the study
)
"""
_LEASE = "make_interval(secs => :seconds)"


@dataclass(frozen=True)
class Peer:
    """Another driver of the study."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}"


def _now() -> float:
    """Seconds that go on while the process is stopped or the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def connection_options(driver: str) -> dict[str, Any]:
    """What libpq is told, so that others find the driver's connections, and it notices a machine that is gone."""
    alive = {"keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
    return {"application_name": _application(driver), "connect_timeout": 10} | alive


def _application(driver: str) -> str:
    return f"seg driver {driver}"


@contextmanager
def locked(engine: sqlalchemy.Engine, study: str, bury: Callable[[], None]) -> Iterator[sqlalchemy.Connection]:
    """A transaction that no other one of this study's drivers is in at the same time.

    Args:
        bury: called before each attempt to get the lock: its holder may be dead.
    """
    key = int.from_bytes(hashlib.sha256(f"seg study {study}".encode()).digest()[:8], signed=True)
    while True:
        bury()
        connection = engine.connect()
        try:
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            connection.execute(text("SET LOCAL lock_timeout TO DEFAULT"))
            break
        except BaseException as error:
            connection.close()
            if getattr(getattr(error, "orig", None), "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
    try:
        yield connection
        connection.commit()
    finally:
        connection.close()


class Lease:
    """A driver's share in a study; a context manager that joins the study and leaves it.

    Args:
        url: of the storage, on PostgreSQL.
        study: its name.
        role: `driver`; `repair` shares with nobody.
        seconds: how long a driver that gives no sign of life keeps its trials.

    Attributes:
        driver: names the lease.
        before: how many drivers joined the study before this one.
    """

    def __init__(
        self, url: sqlalchemy.URL, study: str, *, role: Role = "driver", seconds: float = LEASE_SECONDS
    ) -> None:
        self.driver = uuid.uuid4().hex[:16]
        self.study = study
        self.before = 0
        self._role = role
        self._seconds = seconds
        self._engine = sqlalchemy.create_engine(
            url,
            pool_pre_ping=True,
            pool_size=2,
            max_overflow=1,
            connect_args=connection_options(self.driver),
            execution_options={fence.OWN: True},
        )
        self._valid_until = self._buries_from = -1.0
        self._renewal = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True)

    def __enter__(self) -> Self:
        """Joins.

        Raises:
            StudyTaken: if somebody repairs the study, or this one wants to and it has drivers.
        """
        asked = _now()
        try:
            self._join()
        except BaseException:
            self._engine.dispose()
            raise
        self._valid_until = asked + self._seconds
        fence.put_up(self)
        self._thread.start()
        return self

    def _join(self) -> None:
        with self._engine.begin() as connection:  # creating a table twice at once fails, also with IF NOT EXISTS
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('seg_drivers'))"))
            connection.execute(text(_TABLE))
        with self.alone() as connection:
            excluded = "" if self._role == "repair" else "AND role = 'repair'"
            others = f"SELECT host, pid FROM seg_drivers WHERE study = :study AND state IN {_LIVING} {excluded}"
            if found := connection.execute(text(others), {"study": self.study}).first():
                raise StudyTaken(
                    f"study '{self.study}' must be free of drivers while it is repaired, and of repairs while it is "
                    f"run, and {Peer(*found)} has it; wait for it, or stop it."
                )
            connection.execute(
                text(
                    "INSERT INTO seg_drivers (driver, study, host, pid, role, state, joined, lease_until) VALUES "
                    f"(:driver, :study, :host, :pid, :role, 'working', clock_timestamp(), clock_timestamp() + {_LEASE})"
                ),
                self._values(host=socket.gethostname(), pid=os.getpid(), role=self._role),
            )
            before = "SELECT count(*) FROM seg_drivers WHERE study = :study AND driver <> :driver"
            self.before = int(connection.execute(text(before), self._values()).scalar_one())

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Leaves; a driver that was ending the study has ended it, unless an exception got in its way."""
        self._over.set()
        self._thread.join()
        became = "CASE state WHEN 'finishing' THEN 'finished' ELSE 'left' END" if kind is None else "'left'"
        with suppress(sqlalchemy.exc.SQLAlchemyError):  # the lease runs out by itself
            self._change(f"state = {became}, ended = clock_timestamp()")
        fence.take_down(self)
        self._engine.dispose()

    def check(self) -> None:
        """Returns if this driver still has its lease; else ends the process."""
        if _now() >= self._valid_until:
            try:
                patiently(self.renew)
            except sqlalchemy.exc.SQLAlchemyError:
                self.end_process("the storage does not answer, and the lease of this driver ran out")

    def renew(self) -> None:
        """Prolongs the lease, also one that ran out if nobody noticed; ends the process if somebody did."""
        with self._renewal:
            asked = _now()
            self._change(f"lease_until = clock_timestamp() + {_LEASE}")
            if asked >= self._valid_until:
                self._buries_from = asked + self._seconds
            self._valid_until = asked + self._seconds

    def end_process(self, reason: str) -> NoReturn:
        """Ends the process at once, writing to neither Optuna nor MLflow; its jobs' processes notice and end too."""
        print(f"\nerror: study '{self.study}': {reason}; run the same command again to join it.", file=sys.stderr)
        sys.stderr.flush()
        os._exit(TAKEN_OVER)

    def admit(self, connection: Any, record: object = None) -> None:
        """Prepares a new connection of Optuna's storage (a DB-API one); ends the process of a driver that is buried."""
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM seg_drivers WHERE driver = %s AND state IN {_LIVING}", (self.driver,))
            if cursor.fetchone() is None:
                self._end_as_buried()
        connection.commit()

    def alone(self) -> Any:
        """A transaction that no other driver of this study is in at the same time: a context manager."""
        return locked(self._engine, self.study, self.bury)

    def bury(self) -> None:
        """Marks drivers whose lease ran out as dead, once their connections are ended and can write nothing more.

        After the server, the network or this machine was away, all get a lease's time to come back first.
        """
        if _now() < self._buries_from:
            return
        others = "study = :study AND driver <> :driver"
        was_there = f"pg_postmaster_start_time() + {_LEASE} < clock_timestamp()"
        expired = f"state IN {_LIVING} AND lease_until < clock_timestamp() AND {was_there}"
        with self._engine.begin() as connection:
            connection.execute(
                text(f"UPDATE seg_drivers SET state = 'dying' WHERE {others} AND {expired}"), self._values()
            )
            # Those too that a driver began to bury and died.
            dying = connection.execute(
                text(f"SELECT driver FROM seg_drivers WHERE {others} AND state = 'dying'"), self._values()
            )
            drivers = list(dying.scalars())
        for driver in drivers:
            while self._end_connections(driver):
                time.sleep(_PAUSE)
            with self._engine.begin() as connection:
                connection.execute(
                    text("UPDATE seg_drivers SET state = 'dead', ended = clock_timestamp() WHERE driver = :driver"),
                    {"driver": driver},
                )

    def _end_connections(self, driver: str) -> bool:
        """Whether there were any."""
        with self._engine.begin() as connection:
            found = connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name"),
                {"name": _application(driver)},
            )
            return bool(found.all())

    def living(self) -> set[str]:
        """Drivers whose trials nobody may take over, this one too."""
        with self._engine.begin() as connection:
            found = connection.execute(
                text(
                    f"SELECT driver FROM seg_drivers WHERE study = :study AND (state IN {_LIVING} OR state = 'dying')"
                ),
                {"study": self.study},
            )
            return set(found.scalars())

    def peers(self) -> list[Peer]:
        """The other drivers that are at work."""
        return self._select_peers("state IN ('working', 'finishing')")

    def leaves_last(self) -> bool:
        """Announces that this driver leaves before the end; whether no other one stays."""
        with self.alone():
            self._change("state = 'leaving'")
            return not self.peers()

    def ends_the_study(self, trials: int) -> Peer | None:
        """Takes the end of the study on, unless another driver does it, or has since this one joined.

        Args:
            trials: that finished; a driver that ended the study with fewer has not ended this one.

        Returns:
            None if this driver ends the study; else the other.
        """
        while True:
            with self.alone():
                since = "ended > (SELECT joined FROM seg_drivers WHERE driver = :driver)"
                did = f"trials = :trials AND (state = 'finishing' OR state = 'finished' AND {since})"
                if others := self._select_peers(did, trials=trials):
                    return others[0]
                if not self._select_peers("state = 'finishing'"):
                    self._change("state = 'finishing', trials = :trials", trials=trials)
                    return None
            time.sleep(_PAUSE)

    def _select_peers(self, condition: str, **values: Any) -> list[Peer]:
        with self._engine.begin() as connection:
            found = connection.execute(
                text(
                    "SELECT host, pid FROM seg_drivers WHERE study = :study AND driver <> :driver "
                    f"AND ({condition}) ORDER BY joined"
                ),
                self._values(**values),
            )
            return [Peer(host, pid) for host, pid in found]

    def _change(self, change: str, **values: Any) -> None:
        """Changes this driver's row; ends the process if it is buried."""
        with self._engine.begin() as connection:
            statement = f"UPDATE seg_drivers SET {change} WHERE driver = :driver AND state IN {_LIVING}"
            if not connection.execute(text(statement), self._values(**values)).rowcount:
                self._end_as_buried()

    def _end_as_buried(self) -> NoReturn:
        self.end_process(f"this driver gave no sign of life for {self._seconds:g} s, and another took over its trials")

    def _values(self, **more: Any) -> dict[str, Any]:
        return {"driver": self.driver, "study": self.study, "seconds": self._seconds} | more

    def _keep_renewing(self) -> None:
        while not self._over.wait(self._seconds / _RENEWALS):
            with suppress(sqlalchemy.exc.SQLAlchemyError):  # the next one may succeed; until then the lease holds
                self.renew()
