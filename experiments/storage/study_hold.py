"""Who has a study: an entry point while it runs, `verify` while it repairs, a use of the test split for a moment."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import optuna
import sqlalchemy

from experiments.storage.leases import LEASE_SECONDS, Lease, Role, locked
from experiments.storage.patience import patiently
from experiments.storage.storage_connection import open_storage, or_user_error, parse_url
from experiments.storage.stored_study import Selection, TestUse, TrialRow
from experiments.storage.study_lock import study_lock
from experiments.storage.study_store import StudyStore, read_study


@dataclass(frozen=True)
class Command:
    """An entry point that has a study.

    Attributes:
        study: its name.
        lease: where other drivers may share the study, on PostgreSQL; None: nobody else has it.
    """

    study: str
    lease: Lease | None

    def ended_elsewhere(self, rows: Sequence[TrialRow]) -> str | None:
        """Of the drivers that share a study, the first one that gets here ends it: pages, scores, registration.

        Args:
            rows: the study's trials, which are over.

        Returns:
            None if this driver is to end the study; else a line that says which one does.
        """
        trials = sum(row.state in ("finished", "pruned") for row in rows)
        other = None if (lease := self.lease) is None else patiently(lambda: lease.ends_the_study(trials))
        return None if other is None else f"study '{self.study}' has its trials; its end is left to {other}: see MLflow"


@contextmanager
def hold_command(url: str, study: str, seconds: float = LEASE_SECONDS) -> Iterator[Command]:
    """Has a study for an entry point, from before its first trial until its own run is ended.

    On SQLite it is held against others; on PostgreSQL the entry point joins those that share it.

    Args:
        seconds: how long a driver on PostgreSQL that gives no sign of life keeps its trials.

    Raises:
        StudyTaken: if another entry point holds it.
        UserError: if the storage does not answer or is none.
    """
    parsed = parse_url(url)
    with ExitStack() as held:
        if parsed.get_backend_name() == "sqlite":
            or_user_error(parsed, lambda: held.enter_context(study_lock(parsed, study, "command")))
            yield Command(study, None)
        else:
            yield Command(study, _join(held, parsed, study, "driver", seconds))


@contextmanager
def hold_to_repair(url: str, study: str) -> Iterator[StudyStore]:
    """Holds a study that exists against every driver and entry point, to look at it and repair it.

    Raises:
        StudyTaken: if one holds it.
        UserError: if the storage does not answer or is none.
    """
    parsed = parse_url(url)
    storage = open_storage(url)
    with ExitStack() as held:
        held.callback(storage.engine.dispose)
        if parsed.get_backend_name() == "sqlite":
            held.enter_context(hold_command(url, study))
            or_user_error(parsed, lambda: held.enter_context(study_lock(parsed, study)))
        else:
            _join(held, parsed, study, "repair", LEASE_SECONDS)
        found = or_user_error(parsed, lambda: optuna.load_study(storage=storage, study_name=study))
        yield StudyStore(found, storage, None)


def _join(held: ExitStack, url: sqlalchemy.URL, study: str, role: Role, seconds: float) -> Lease:
    lease = or_user_error(url, lambda: Lease(url, study, role=role, seconds=seconds))
    or_user_error(url, lambda: held.enter_context(lease))
    return lease


def note_test_use(url: str, study: str, trial: int) -> None:
    """Notes that the test split is used for a trial, now; nothing if it was used for this trial before.

    Raises:
        UserError: as `read_study`, or if another driver holds the study (on SQLite; on PostgreSQL one at a time notes).
    """
    with _noting(url, study) as noted:
        before = read_study(url, study).test_uses
        if trial not in [use.trial for use in before]:
            use = TestUse(trial=trial, at=datetime.now(UTC).isoformat(timespec="seconds"))
            noted.set_user_attr("test_uses", [asdict(each) for each in (*before, use)])


def note_selection(url: str, study: str, selection: Selection) -> None:
    """Notes which trial a study registers, in place of what was noted before.

    Raises:
        UserError: as `note_test_use`.
    """
    with _noting(url, study) as noted:
        noted.set_user_attr("selection", asdict(selection))


@contextmanager
def _noting(url: str, study: str) -> Iterator[optuna.Study]:
    """A study to note something on that nobody else notes meanwhile."""
    parsed = parse_url(url)
    with ExitStack() as held:
        storage = open_storage(url)
        held.callback(storage.engine.dispose)
        if parsed.get_backend_name() == "sqlite":
            or_user_error(parsed, lambda: held.enter_context(study_lock(parsed, study)))
        else:
            held.enter_context(locked(storage.engine, study, bury=lambda: None))
        yield optuna.load_study(storage=storage, study_name=study)
