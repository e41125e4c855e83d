"""Optuna's storage, and nothing else talks to it: studies, their identity, their trials."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from experiments.search import ArmSampler, SearchSpace, fingerprint, make_pruner, make_sampler, place, suggest
from experiments.study_lock import study_lock
from seg.config import TrainConfig
from seg.errors import UserError

Result = TypeVar("Result")

DEFAULT_STORAGE = "sqlite:///optuna.db"

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
class TrialRow:
    """A trial as the storage knows it.

    Attributes:
        number: Optuna's, from 0.
        state: finished, pruned, failed, running or waiting.
        config: None if the driver died before it was settled on.
        val_dice: of the best epoch; None unless finished (pruned: of the last epoch).
        run_id: of its MLflow run; None if it never got one.
        reason: why it failed.
        seconds: from its start to its end; None while it runs.
    """

    number: int
    state: str
    config: TrainConfig | None
    val_dice: float | None
    run_id: str | None
    reason: str
    seconds: float | None


class StudyStore:
    """One study, held by one driver; made by `open_study`."""

    def __init__(self, study: optuna.Study, storage: optuna.storages.BaseStorage, space: SearchSpace) -> None:
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
        """Notes an epoch; returns False if the pruner wants the trial stopped."""
        self._asked[number].report(val_dice, epoch)
        return not self._asked[number].should_prune()

    def complete(self, number: int, val_dice: float) -> None:
        """Ends a trial as finished with a finite val_dice."""
        assert math.isfinite(val_dice)
        self._study.tell(self._asked.pop(number), val_dice)

    def prune(self, number: int) -> None:
        """Ends a trial as pruned; its last reported val_dice is its value."""
        self._study.tell(self._asked.pop(number), state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Ends a trial as failed: one of this driver, or one that a dead driver left running."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        self._storage.set_trial_user_attr(trial_id, "reason", reason)
        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        self._asked.pop(number, None)


def _row(trial: FrozenTrial) -> TrialRow:
    config = trial.user_attrs.get("config")
    return TrialRow(
        number=trial.number,
        state=_STATES[trial.state],
        config=None if config is None else TrainConfig(**config),
        val_dice=trial.value,
        run_id=trial.user_attrs.get("run_id"),
        reason=trial.user_attrs.get("reason", ""),
        seconds=None if trial.duration is None else trial.duration.total_seconds(),
    )


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
    parsed = _parse_url(url)
    with ExitStack() as held:
        _or_user_error(parsed, lambda: held.enter_context(study_lock(parsed, identity.study)))
        storage, study = _or_user_error(parsed, lambda: _create(parsed, identity))
        held.callback(storage.engine.dispose)
        yield StudyStore(study, storage, identity.space)


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Opens a storage that exists, for those who look at it.

    Raises:
        UserError: if it does not answer or is none. The message never shows a password.
    """
    parsed = _parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).is_file():
        raise UserError(f"storage must name a file that exists, got {parsed.database}; run a study first.")
    return _or_user_error(parsed, lambda: _connect(parsed))


def _parse_url(url: str) -> sqlalchemy.URL:
    try:
        parsed = sqlalchemy.make_url(url)
        backend = parsed.get_backend_name()
    except (sqlalchemy.exc.ArgumentError, ValueError):
        backend = ""  # the URL may hold a password: it is not shown
    if backend not in ("sqlite", "postgresql"):
        raise UserError("storage must be a URL like sqlite:///optuna.db or postgresql://user@host/database.")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UserError(f"storage must name a file, so that a study can go on; use {DEFAULT_STORAGE}.")
    return parsed


def _connect(url: sqlalchemy.URL) -> optuna.storages.RDBStorage:
    waiting = {"connect_args": {"timeout": 60}} if url.get_backend_name() == "sqlite" else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=waiting)


def _create(url: sqlalchemy.URL, identity: StudyIdentity) -> tuple[optuna.storages.RDBStorage, optuna.Study]:
    storage = _connect(url)
    study = optuna.create_study(
        storage=storage,
        study_name=identity.study,
        direction="maximize",
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
        if study.get_trials(deepcopy=False):
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
    before = stored["space"] | {"split": stored["split"], "sampler": stored["sampler"]}
    now = identity.space.as_dict() | {"split": identity.split, "sampler": identity.space.sampler}
    for name in now:
        if before.get(name) != now[name]:
            raise UserError(
                f"study '{identity.study}' was started with {name}={_text(before.get(name))}, got {_text(now[name])}; "
                "its trials would not be comparable: use another study name."
            )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _or_user_error(url: sqlalchemy.URL, action: Callable[[], Result]) -> Result:
    shown = url.set(query={}).render_as_string(hide_password=True)
    try:
        return action()
    except ImportError:
        raise UserError(f"storage {shown} needs a database driver; pip install 'psycopg[binary]'.") from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError, RuntimeError) as error:
        cause = error.__cause__ or error
        detail = str(getattr(cause, "orig", cause)).strip().partition("\n")[0]
        raise UserError(f"storage {shown} does not answer ({_without_password(detail, url)}).") from None


def _without_password(text: str, url: sqlalchemy.URL) -> str:
    secrets = [url.password, *(str(value) for name, value in url.query.items() if "pass" in name)]
    for secret in filter(None, secrets):
        for form in {secret, quote(secret, safe=""), quote_plus(secret)}:
            text = text.replace(form, "***")
    return text
