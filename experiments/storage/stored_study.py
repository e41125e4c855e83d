"""What Optuna's storage holds of a study and its trials, for whoever only reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seg.config import TrainConfig
from seg.training.result import ModelCost

STATES = ("finished", "pruned", "failed", "running", "waiting")


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
class Selection:
    """The trial that a study registers.

    Attributes:
        trial: its number.
        rule: that chose it: a value of the option `select`.
        best: number of the best trial.
        standard_error: of the best configuration's mean Dice on validation; None where the rule asks for none.
        because: why it, for people, in one line.
        least: the mean Dice from which on a configuration is as good; None likewise.
    """

    trial: int
    rule: str
    best: int
    standard_error: float | None
    because: str
    least: float | None = None


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
        driver: the lease (`experiments.storage.leases`) of the driver that last ran it; empty on SQLite.
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
    driver: str = ""
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
