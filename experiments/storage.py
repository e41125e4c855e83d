"""Optuna's storage, and nothing else talks to it: studies, their identity, their trials."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from experiments.new_database import create_whole
from experiments.objectives import OBJECTIVES, is_single, objective_of, objective_values
from experiments.search import ArmSampler, SearchSpace, fingerprint, make_pruner, make_sampler, place, suggest
from experiments.selection import Selection
from experiments.storage_connection import connect, open_storage, or_user_error, parse_url
from experiments.study_lock import study_lock
from seg.config import TrainConfig
from seg.errors import UserError
from seg.training.result import ModelCost

_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class StudyIdentity:
    """What a study belongs to. All its trials share it; a command that differs needs another study.

    Attributes:
        study: the name; also a folder's name.
        dataset_key: `Manifest.key`.
        dataset_name: `Manifest.name`, for people.
        split: `Manifest.split`.
        space: what is searched and how.
    """

    study: str
    dataset_key: str
    dataset_name: str
    split: str
    space: SearchSpace

    def __post_init__(self) -> None:
        if not _STUDY_NAME.fullmatch(self.study):
            raise UserError(
                "study must be made of letters, digits, '-', '_' and '.', begin with a letter or digit and have at "
                f"most 100 characters, got '{self.study}'."
            )


@dataclass(frozen=True, kw_only=True)
class TestUse:
    """One use of the test split by a study.

    Attributes:
        trial: number of the trial that was scored.
        at: when that began, in UTC, as ISO 8601 has it.
    """

    __test__ = False  # no test, whatever pytest thinks of its name

    trial: int
    at: str


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A trial as the storage knows it.

    Attributes:
        number: Optuna's, from 0.
        state: finished, pruned, failed, running or waiting.
        config: None if the driver died before it was settled on.
        val_dice: of the best epoch; None unless finished (pruned: of the last epoch).
        run_id: of its MLflow run; None if it never got one.
        reason: why it failed.
        seconds: from its last start to its end; None while it runs.
        deaths: how many of its processes died.
        curve: val_dice of each epoch that it reported, by epoch.
        cost: of its model; None unless finished or pruned, and in studies of older versions.
    """

    number: int
    state: str
    config: TrainConfig | None
    val_dice: float | None
    run_id: str | None
    reason: str
    seconds: float | None
    deaths: int = 0
    curve: Mapping[int, float] = field(default_factory=dict)
    cost: ModelCost | None = None


@dataclass(frozen=True, kw_only=True)
class StoredStudy:
    """A study as the storage knows it, for whoever only reads.

    Attributes:
        study: its name.
        dataset_key, dataset_name, split: of the dataset that it trained on.
        sampler: grid or tpe.
        settings: the options that all its trials share; `loss` and `filters` are lists.
        run_id: of its MLflow run; None if it never got one.
        rows: every trial, by number.
        test_uses: when the test split was used, for which trials; the earliest first.
        objective: what its trials are judged by.
        selection: the trial that it registered last; None if it never did.
    """

    study: str
    dataset_key: str
    dataset_name: str
    split: str
    sampler: str
    settings: dict[str, Any]
    run_id: str | None
    rows: tuple[TrialRow, ...]
    test_uses: tuple[TestUse, ...] = ()
    objective: str = "dice"
    selection: Selection | None = None


class StudyStore:
    """One study, held by one driver (made by `open_study`) or for repairs (`hold_to_repair`)."""

    def __init__(self, study: optuna.Study, storage: optuna.storages.BaseStorage, space: SearchSpace | None) -> None:
        self._study = study
        self._storage = storage
        self._space = space
        self._asked: dict[int, optuna.Trial] = {}

    def parent_run(self) -> str | None:
        """The id of the study's MLflow run, once `set_parent_run` stored it."""
        return self._study.user_attrs.get("run_id")

    def set_parent_run(self, run_id: str) -> None:
        self._study.set_user_attr("run_id", run_id)

    def trials(self) -> list[TrialRow]:
        """Every trial of the study, by number."""
        return [_row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def ask(self, arm: TrainConfig | None) -> TrialRow:
        """Starts a trial: of the given arm of a grid, or (None) of what TPE proposes."""
        assert self._space is not None  # None in a study that is held to be repaired
        if isinstance(self._study.sampler, ArmSampler):
            assert arm is not None
            self._study.sampler.arm = arm
        trial = self._study.ask()
        config = suggest(trial, self._space) if arm is None else place(trial, self._space, arm)
        trial.set_user_attr("config", config.as_dict())
        self._asked[trial.number] = trial
        return TrialRow(
            number=trial.number, state="running", config=config, val_dice=None, run_id=None, reason="", seconds=None
        )

    def resume(self) -> TrialRow | None:
        """Starts the first waiting trial again; None if none waits."""
        if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return None
        trial = self._study.ask()  # Optuna gives out what waits before anything new
        self._asked[trial.number] = trial
        return next(row for row in self.trials() if row.number == trial.number)

    def requeue(self, number: int, deaths: int) -> None:
        """Lets a running trial wait for `resume`: one of this driver, or one that a dead driver left running."""
        trial_id = self._trial_id(number)
        self._storage.set_trial_user_attr(trial_id, "deaths", deaths)
        self._storage.set_trial_state_values(trial_id, TrialState.WAITING)
        self._asked.pop(number, None)

    def same_as(self, row: TrialRow) -> int | None:
        """The number of the finished, pruned or running trial that trains what this one would train."""
        assert row.config is not None
        wanted = fingerprint(row.config)
        others = [other for other in self.trials() if other.number != row.number and other.state != "failed"]
        same = (other.number for other in others if other.config is not None and fingerprint(other.config) == wanted)
        return next(same, None)

    def set_run(self, number: int, run_id: str) -> None:
        """Remembers a running trial's MLflow run."""
        self._asked[number].set_user_attr("run_id", run_id)

    def report(self, number: int, epoch: int, val_dice: float) -> bool:
        """Notes an epoch, unless it was noted before; returns False if the pruner wants the trial stopped."""
        trial, trial_id = self._asked[number], self._trial_id(number)
        known = epoch in self._storage.get_trial(trial_id).intermediate_values
        if not is_single(self._objective):  # Optuna's trials then know neither reports nor pruning; its storage does
            if not known:
                self._storage.set_trial_intermediate_value(trial_id, epoch, val_dice)
            return True
        if not known:
            trial.report(val_dice, epoch)
        return not trial.should_prune()

    def complete(self, number: int, val_dice: float, cost: ModelCost | None = None) -> None:
        """Ends a trial as finished with a finite val_dice; a study that judges by cost takes that, too."""
        assert math.isfinite(val_dice)
        self._study.tell(self._costing(number, cost), objective_values(self._objective, val_dice, cost))

    def prune(self, number: int, cost: ModelCost | None = None) -> None:
        """Ends a trial as pruned; its last reported val_dice is its value."""
        self._study.tell(self._costing(number, cost), state=TrialState.PRUNED)

    def _costing(self, number: int, cost: ModelCost | None) -> optuna.Trial:
        trial = self._asked.pop(number)
        if cost is not None:
            trial.set_user_attr("cost", asdict(cost))
        return trial

    def fail(self, number: int, reason: str) -> None:
        """Ends a trial as failed: one of this driver, or one that a dead driver left running."""
        trial_id = self._trial_id(number)
        self._storage.set_trial_user_attr(trial_id, "reason", reason)
        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        self._asked.pop(number, None)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)

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


def note_test_use(url: str, study: str, trial: int) -> None:
    """Notes that the test split is used for a trial, now; nothing if it was used for this trial before.

    Raises:
        UserError: as `read_study`, or if another driver holds the study.
    """
    parsed = parse_url(url)
    with ExitStack() as held:
        or_user_error(parsed, lambda: held.enter_context(study_lock(parsed, study)))
        before = read_study(url, study).test_uses
        if trial not in [use.trial for use in before]:
            use = TestUse(trial=trial, at=datetime.now(UTC).isoformat(timespec="seconds"))
            storage = connect(parsed)
            held.callback(storage.engine.dispose)
            uses = [asdict(each) for each in (*before, use)]
            optuna.load_study(storage=storage, study_name=study).set_user_attr("test_uses", uses)


def note_selection(url: str, study: str, selection: Selection) -> None:
    """Notes which trial a study registers, in place of what was noted before.

    Raises:
        UserError: as `note_test_use`.
    """
    parsed = parse_url(url)
    with ExitStack() as held:
        or_user_error(parsed, lambda: held.enter_context(study_lock(parsed, study)))
        storage = connect(parsed)
        held.callback(storage.engine.dispose)
        optuna.load_study(storage=storage, study_name=study).set_user_attr("selection", asdict(selection))


@contextmanager
def hold_command(url: str, study: str) -> Iterator[None]:
    """Holds a study for an entry point, from before its first trial until its own run is ended.

    Raises:
        StudyTaken: if another entry point holds it.
        UserError: if the storage does not answer or is none.
    """
    parsed = parse_url(url)
    with ExitStack() as held:
        or_user_error(parsed, lambda: held.enter_context(study_lock(parsed, study, "command")))
        yield


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
        held.enter_context(hold_command(url, study))
        or_user_error(parsed, lambda: held.enter_context(study_lock(parsed, study)))
        found = or_user_error(parsed, lambda: optuna.load_study(storage=storage, study_name=study))
        yield StudyStore(found, storage, None)


@contextmanager
def open_study(url: str, identity: StudyIdentity) -> Iterator[StudyStore]:
    """Opens or creates the study and holds it against other drivers while the block runs.

    Args:
        url: an SQLAlchemy URL, `sqlite:///FILE` or `postgresql://…`; tables are created where they are missing.

    Raises:
        UserError: if the storage does not answer or is none, the study belongs to something else, or another driver
            holds it. The message never shows a password.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its "study created" lines would break the progress line
    parsed = parse_url(url)
    with ExitStack() as held:
        or_user_error(parsed, lambda: held.enter_context(study_lock(parsed, identity.study)))
        storage, study = or_user_error(parsed, lambda: _create(parsed, identity))
        held.callback(storage.engine.dispose)
        yield StudyStore(study, storage, identity.space)


def _create(url: sqlalchemy.URL, identity: StudyIdentity) -> tuple[optuna.storages.RDBStorage, optuna.Study]:
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        create_whole(Path(url.database), lambda fresh: optuna.storages.RDBStorage(fresh).engine.dispose())
    storage = connect(url)
    study = optuna.create_study(
        storage=storage,
        study_name=identity.study,
        directions=OBJECTIVES[identity.space.objective],
        load_if_exists=True,
        pruner=make_pruner(identity.space),
    )
    _check_identity(study, identity)
    study.sampler = make_sampler(identity.space, len(study.get_trials(deepcopy=False)))
    return storage, study


def _check_identity(study: optuna.Study, identity: StudyIdentity) -> None:
    """Compares with what the study was made for; a new study is given its identity."""
    wanted: dict[str, Any] = {
        "dataset_key": identity.dataset_key,
        "dataset_name": identity.dataset_name,
        "split": identity.split,
        "sampler": identity.space.sampler,
        "space": identity.space.as_dict(),
    }
    stored = study.user_attrs
    if "space" not in stored:  # written last: a driver that died before has asked no trial
        if study.get_trials(deepcopy=False) or len(study.directions) != len(OBJECTIVES[identity.space.objective]):
            raise UserError(f"study '{identity.study}' was not made by this program; use another study name.")
        for name, value in wanted.items():
            study.set_user_attr(name, value)
        return
    if stored["dataset_key"] != identity.dataset_key:
        raise UserError(
            f"study '{identity.study}' belongs to another dataset, '{stored['dataset_name']}' "
            f"({stored['dataset_key'][:12]}), and not to '{identity.dataset_name}' ({identity.dataset_key[:12]}); "
            "use another study name."
        )
    # A study from before a field was there was trained with the field's default.
    before = TrainConfig().as_dict() | stored["space"] | {"split": stored["split"], "sampler": stored["sampler"]}
    now = identity.space.as_dict() | {"split": identity.split, "sampler": identity.space.sampler}
    before["objective"], now["objective"] = objective_of(len(study.directions)), identity.space.objective
    for name in now:
        if before.get(name) != now[name]:
            raise UserError(
                f"study '{identity.study}' was started with {name}={_text(before.get(name))}, got {_text(now[name])}; "
                "its trials would not be comparable: use another study name."
            )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
