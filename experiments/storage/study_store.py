"""Optuna's storage, and nothing else talks to it: studies, their identity, their trials."""

import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from experiments.command_line.passwords import hide
from experiments.storage.leases import Lease, locked
from experiments.storage.new_database import create_whole
from experiments.storage.patience import PatientStorage, patiently
from experiments.storage.storage_connection import connect, open_storage, or_user_error, parse_url
from experiments.storage.stored_study import Selection, StoredStudy, TestUse, TrialRow
from experiments.storage.study_identity import StudyIdentity, check_identity
from experiments.storage.study_lock import study_lock
from experiments.studies.objectives import OBJECTIVES, objective_of, objective_values
from experiments.studies.search import SearchSpace, as_trial, fingerprint, make_pruner, make_sampler, suggest
from experiments.tracking.operations import new_key
from seg.config import TrainConfig
from seg.errors import UserError
from seg.training.result import ModelCost

Result = TypeVar("Result")

ABANDONED = "the driver of this trial died"


@dataclass(frozen=True)
class _Asked:
    """A trial that this driver runs: Optuna's id, and the val_dice of each epoch that the storage knows, by epoch."""

    trial_id: int
    reported: dict[int, float]


_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


class StudyStore:
    """One study, held or shared by one driver (made by `open_study`), or held for repairs (`hold_to_repair`).

    Args:
        study, storage: Optuna's.
        space: what is searched; None for repairs.
        lease: of this driver where others may share the study, on PostgreSQL; None: nobody else has it.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: optuna.storages.RDBStorage,
        space: SearchSpace | None,
        lease: Lease | None = None,
    ) -> None:
        self._study = study
        self._storage = storage
        self._space = space
        self.lease = lease
        self._asked: dict[int, _Asked] = {}
        # Of trials that are over, and of configurations, which never change: a long study is not read again and again.
        self._settled: dict[int, TrialRow] = {}
        self._fingerprints: dict[int, str] = {}
        self._trained: set[str | None] = set()

    def atomically(self, action: Callable[[], Result]) -> Result:
        """What `action` returns, which no other driver of the study interferes with.

        On PostgreSQL all that it does to the storage is one transaction; where the connection is lost, none of it is
        done, and `action` is called again.
        """
        return action() if self.lease is None else patiently(lambda: self._in_transaction(action))

    def _in_transaction(self, action: Callable[[], Result]) -> Result:
        assert isinstance(self._storage, PatientStorage)
        assert self.lease is not None
        asked = dict(self._asked)
        try:
            with (
                locked(self._storage.engine, self._study.study_name, self.lease.bury) as connection,
                self._storage.within(connection),
            ):
                return action()
        except BaseException:
            self._asked = asked
            self._settled.clear()
            self._fingerprints.clear()
            self._trained.clear()
            self._study._storage = optuna.storages.get_storage(self._storage)  # its cache has what was undone
            raise

    def parent_run(self) -> str | None:
        """The id of the study's MLflow run, once `set_parent_run` stored it."""
        return self._study.user_attrs.get("run_id")

    def run_key(self, *, adopts: bool) -> str | None:
        """The key that the study's MLflow run is to be made with, noted before: whoever dies then, the next finds it.

        Args:
            adopts: whether there is a run already that will be the study's, unless one was to be made before.
        """
        key = self._study.user_attrs.get("run_key")
        if key is None and not adopts:
            key = new_key()
            self._study.set_user_attr("run_key", key)
        return key

    def set_parent_run(self, run_id: str) -> None:
        self._study.set_user_attr("run_id", run_id)

    def trials(self) -> list[TrialRow]:
        """Every trial of the study, by number."""
        known = self._settled
        return [known.get(trial.number) or self._new_row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def _new_row(self, trial: FrozenTrial) -> TrialRow:
        row = _row(trial)
        if trial.state.is_finished():
            self._settled[trial.number] = row
            if row.state != "failed":
                self._trained.add(self.fingerprint(row))
        return row

    @property
    def trained(self) -> Container[str | None]:
        """The fingerprints of what was finished or pruned when `trials` last looked."""
        return self._trained

    def alone(self) -> AbstractContextManager[object]:
        """While the block runs, no other driver is in such a block of this study, or acts `atomically`."""
        return nullcontext() if self.lease is None else self.lease.alone()

    def has_peers(self) -> bool:
        """Whether other drivers are at work on this study."""
        return self.lease is not None and bool(self.lease.peers())

    def leaves_last(self) -> bool:
        """To be called by a driver that leaves before the study's end: whether no other one stays."""
        return self.lease is None or patiently(self.lease.leaves_last)

    @property
    def asked(self) -> int:
        """How many trials this driver runs."""
        return len(self._asked)

    def fingerprint(self, row: TrialRow) -> str | None:
        """Equal for trials that train the same; None for one without a configuration."""
        if row.config is not None and row.number not in self._fingerprints:
            self._fingerprints[row.number] = fingerprint(row.config)
        return self._fingerprints.get(row.number)

    def take_over(self, rows: Sequence[TrialRow]) -> list[TrialRow]:
        """Queues those of these trials that dead drivers left running, and returns them. To be called `atomically`."""
        left_behind = [row for row in rows if row.state == "running" and row.number not in self._asked]
        if left_behind and self.lease is not None:
            # One of this driver that it does not know was asked by a transaction whose success it never heard of.
            alive = self.lease.living() - {self.lease.driver}
            left_behind = [row for row in left_behind if row.driver not in alive]
        for row in left_behind:
            if row.config is None:
                self.fail(row.number, ABANDONED)  # before it was settled what it should train
            else:
                self.requeue(row.number, row.deaths)
        return left_behind

    def ask(self, arm: TrainConfig | None) -> TrialRow:
        """Starts a trial: of the given arm of a grid, or (None) of what TPE proposes."""
        assert self._space is not None  # None in a study that is held to be repaired
        if arm is None:
            proposed = self._study.ask()
            config, number, trial_id = suggest(proposed, self._space), proposed.number, proposed._trial_id
            for name, value in self._attributes(config).items():
                self._storage.set_trial_user_attr(trial_id, name, value)
        else:
            # As one operation, where Optuna's `ask` reads every trial, and then each parameter is one of its own.
            wanted = as_trial(self._space, arm, self._attributes(arm))
            made = self._storage._create_new_trial(self._study._study_id, wanted)
            config, number, trial_id = arm, made.number, made._trial_id
        self._asked[number] = _Asked(trial_id, {})
        return TrialRow(
            number=number, state="running", config=config, val_dice=None, run_id=None, reason="", seconds=None
        )

    def _attributes(self, config: TrainConfig) -> dict[str, object]:
        return {"config": config.as_dict()} | ({} if self.lease is None else {"driver": self.lease.driver})

    def resume(self, wanted: Callable[[TrialRow], bool] = lambda row: True) -> TrialRow | None:
        """Starts the first waiting trial that is wanted again; None if none waits."""
        for waiting in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if not wanted(_row(waiting)):
                continue
            trial_id = waiting._trial_id
            if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                continue  # somebody else did
            self._asked[waiting.number] = _Asked(trial_id, dict(waiting.intermediate_values))
            if self.lease is not None:
                self._storage.set_trial_user_attr(trial_id, "driver", self.lease.driver)
            return _row(self._storage.get_trial(trial_id))
        return None

    def requeue(self, number: int, deaths: int) -> None:
        """Lets a running trial wait for `resume`, of any driver: one of this driver, or of one that is dead."""
        trial_id = self._trial_id(number)
        self._storage.set_trial_user_attr(trial_id, "deaths", deaths)
        self._storage.set_trial_state_values(trial_id, TrialState.WAITING)
        self._asked.pop(number, None)

    def same_as(self, row: TrialRow) -> int | None:
        """The number of the finished, pruned or running trial that trains what this one would train."""
        wanted = self.fingerprint(row)
        others = (other for other in self.trials() if other.number != row.number and other.state != "failed")
        return next((other.number for other in others if self.fingerprint(other) == wanted), None)

    def set_run(self, number: int, run_id: str) -> None:
        """Remembers a running trial's MLflow run."""
        self._storage.set_trial_user_attr(self._asked[number].trial_id, "run_id", run_id)

    def report(self, number: int, epoch: int, val_dice: float) -> bool:
        """Notes an epoch, unless it was noted before; returns False if the pruner wants the trial stopped."""
        asked = self._asked[number]
        if epoch not in asked.reported:
            self._storage.set_trial_intermediate_value(asked.trial_id, epoch, val_dice)
            asked.reported[epoch] = val_dice
        if isinstance(self._study.pruner, optuna.pruners.NopPruner):  # it would be shown the trial for nothing
            return True
        return not self._study.pruner.prune(self._study, self._storage.get_trial(asked.trial_id))

    def complete(self, number: int, val_dice: float, cost: ModelCost | None = None) -> None:
        """Ends a trial as finished with a finite val_dice; a study that judges by cost takes that, too."""
        assert math.isfinite(val_dice)
        self._end(number, TrialState.COMPLETE, objective_values(self._objective, val_dice, cost), cost)

    def prune(self, number: int, cost: ModelCost | None = None) -> None:
        """Ends a trial as pruned; its last reported val_dice is its value."""
        reported = self._asked[number].reported
        self._end(number, TrialState.PRUNED, [reported[max(reported)]], cost)

    def _end(self, number: int, state: TrialState, values: Sequence[float], cost: ModelCost | None) -> None:
        # Not by Optuna's `tell`, which reads the trial before; neither TPE nor a grid does anything after a trial.
        trial_id = self._asked.pop(number).trial_id
        if cost is not None:
            self._storage.set_trial_user_attr(trial_id, "cost", asdict(cost))
        self._storage.set_trial_state_values(trial_id, state, values)

    def fail(self, number: int, reason: str) -> None:
        """Ends a trial as failed: one of this driver, or one that a dead driver left running."""
        trial_id = self._trial_id(number)
        self._storage.set_trial_user_attr(trial_id, "reason", hide(reason))
        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        self._asked.pop(number, None)

    def _trial_id(self, number: int) -> int:
        if (asked := self._asked.get(number)) is not None:
            return asked.trial_id
        return self._study._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)

    @property
    def _objective(self) -> str:
        return objective_of(len(self._study.directions))


def _row(trial: FrozenTrial) -> TrialRow:
    config, cost = trial.user_attrs.get("config"), trial.user_attrs.get("cost")
    return TrialRow(
        number=trial.number,
        state=_STATES[trial.state],
        config=None if config is None else TrainConfig(**config),
        val_dice=trial.values[0] if trial.values else None,
        run_id=trial.user_attrs.get("run_id"),
        reason=trial.user_attrs.get("reason", ""),
        seconds=None if trial.duration is None else trial.duration.total_seconds(),
        deaths=trial.user_attrs.get("deaths", 0),
        driver=trial.user_attrs.get("driver", ""),
        curve=dict(sorted(trial.intermediate_values.items())),
        cost=None if cost is None else ModelCost(**cost),
    )


def read_study(url: str, study: str) -> StoredStudy:
    """Reads a study without holding it: another driver may be at work on it.

    Raises:
        UserError: if the storage does not answer or is none, or has no such study of ours.
    """
    parsed = parse_url(url)
    storage = open_storage(url)
    try:
        known = or_user_error(parsed, lambda: optuna.get_all_study_names(storage))
        if study not in known:
            raise UserError(f"study must be one of {', '.join(known) or '(none there)'}, got '{study}'.")
        found = or_user_error(parsed, lambda: optuna.load_study(storage=storage, study_name=study))
        stored = found.user_attrs
        if "space" not in stored:
            raise UserError(f"study '{study}' was not made by this program; choose another.")
        return StoredStudy(
            study=study,
            dataset_key=stored["dataset_key"],
            dataset_name=stored["dataset_name"],
            split=stored["split"],
            sampler=stored["sampler"],
            settings=stored["space"],
            run_id=stored.get("run_id"),
            rows=tuple(_row(trial) for trial in found.get_trials(deepcopy=False)),
            test_uses=tuple(TestUse(**use) for use in stored.get("test_uses", [])),
            objective=objective_of(len(found.directions)),
            selection=None if "selection" not in stored else Selection(**stored["selection"]),
        )
    finally:
        storage.engine.dispose()


@contextmanager
def open_study(url: str, identity: StudyIdentity, lease: Lease | None = None) -> Iterator[StudyStore]:
    """Opens or creates the study: on SQLite held against other drivers while the block runs, on PostgreSQL shared.

    Args:
        url: an SQLAlchemy URL, `sqlite:///FILE` or `postgresql://…`; tables are created where they are missing.
        lease: of this driver, on PostgreSQL; None: it gets one for the block.

    Raises:
        UserError: if the storage does not answer or is none, the study belongs to something else, or somebody holds
            it. The message never shows a password.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its "study created" lines would break the progress line
    parsed = parse_url(url)
    with ExitStack() as held:
        if parsed.get_backend_name() == "sqlite":
            or_user_error(parsed, lambda: held.enter_context(study_lock(parsed, identity.study)))
        elif lease is None:
            lease = or_user_error(parsed, lambda: held.enter_context(Lease(parsed, identity.study)))
        storage, study = or_user_error(parsed, lambda: _create(parsed, identity, lease))
        held.callback(storage.engine.dispose)
        yield StudyStore(study, storage, identity.space, lease)


def _create(
    url: sqlalchemy.URL, identity: StudyIdentity, lease: Lease | None
) -> tuple[optuna.storages.RDBStorage, optuna.Study]:
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        create_whole(Path(url.database), lambda fresh: optuna.storages.RDBStorage(fresh).engine.dispose())
    with nullcontext() if lease is None else lease.alone(), ExitStack() as undone:
        storage = connect(url, lease)
        undone.callback(storage.engine.dispose)
        study = optuna.create_study(
            storage=storage,
            study_name=identity.study,
            directions=OBJECTIVES[identity.space.objective],
            load_if_exists=True,
            pruner=make_pruner(identity.space),
        )
        check_identity(study, identity)
        undone.pop_all()
    if identity.space.sampler == "tpe":  # a grid asks no sampler
        drivers_before = 0 if lease is None else lease.before
        study.sampler = make_sampler(identity.space, len(study.get_trials(deepcopy=False)), drivers_before)
    return storage, study
