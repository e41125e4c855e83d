"""A fence around a process that may have been taken for dead: what asks here before it writes, writes nothing after.

Every transaction of SQLAlchemy (Optuna's, and MLflow's where its store is a database) asks when it begins and once more
before it commits; requests to an MLflow server ask in `tracking/fenced_requests.py`. A process without a lease is not
fenced.
"""

from typing import Protocol

import sqlalchemy

OWN = "seg_lease"
"""Execution option of the connections on which a lease itself is kept."""


class Checked(Protocol):
    def check(self) -> None:
        """Returns if this process may write; else ends the process."""


_leases: list[Checked] = []


def put_up(lease: Checked) -> None:
    """From now on this process asks the lease before it writes."""
    if not sqlalchemy.event.contains(sqlalchemy.Engine, "begin", _ask):
        sqlalchemy.event.listen(sqlalchemy.Engine, "begin", _ask)
        sqlalchemy.event.listen(sqlalchemy.Engine, "commit", _ask)
    _leases.append(lease)


def take_down(lease: Checked) -> None:
    _leases.remove(lease)


def check() -> None:
    """Returns if this process may write; else ends the process."""
    for lease in tuple(_leases):
        lease.check()


def _ask(connection: sqlalchemy.Connection) -> None:
    if not connection.get_execution_options().get(OWN):
        check()
