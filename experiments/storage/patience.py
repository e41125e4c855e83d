"""A database that is restarted while a study runs costs a wait, not the study."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import optuna
import sqlalchemy
import sqlalchemy.orm
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState

Result = TypeVar("Result")

PATIENCE = 60.0
"""Seconds that a database may be away."""

_PAUSE = 0.5
_LOST = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.PendingRollbackError,
    sqlalchemy.exc.ResourceClosedError,
)


def is_lost_connection(error: BaseException) -> bool:
    """Whether the database could not be reached, or went away: another attempt may succeed."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, _LOST) or bool(getattr(cause, "connection_invalidated", False))


def patiently(action: Callable[[], Result], seconds: float = PATIENCE) -> Result:
    """What `action` returns, tried again while the connection is lost.

    Raises whatever `action` raises otherwise, or still raises after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            if not is_lost_connection(error) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)


class PatientStorage(optuna.storages.RDBStorage):
    """Optuna's storage, each of whose operations is tried again when the connection is lost.

    Attributes:
        in_transaction: whether it works inside a larger transaction, which is lost with its connection as a whole.
    """

    in_transaction = False

    @contextmanager
    def within(self, connection: sqlalchemy.Connection) -> Iterator[None]:
        """Everything that the block does is part of the transaction that this connection is in."""
        own = self.scoped_session
        sessions = sqlalchemy.orm.sessionmaker(bind=connection, join_transaction_mode="create_savepoint")
        self.scoped_session = sqlalchemy.orm.scoped_session(sessions)
        self.in_transaction = True
        try:
            yield
        finally:
            self.scoped_session.remove()
            self.scoped_session, self.in_transaction = own, False

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        attempts = 0

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                return super(PatientStorage, self).set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                # Only one driver ends a trial: if it is ended so, the answer to an attempt before was lost.
                if attempts > 1 and self.get_trial(trial_id).state == state:
                    return True
                raise

        return attempt() if self.in_transaction else patiently(attempt)


def _patient(name: str) -> Callable[..., Any]:
    method = getattr(optuna.storages.RDBStorage, name)

    def call(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        if self.in_transaction:
            return method(self, *arguments, **named)
        return patiently(lambda: method(self, *arguments, **named))

    return call


for _name in (
    "_create_new_trial",
    "_get_trials",
    "_set_trial_param",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_study_directions",
    "get_study_name_from_id",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
):
    setattr(PatientStorage, _name, _patient(_name))
