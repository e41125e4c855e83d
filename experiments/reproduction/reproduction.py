"""`Reproduction`: a training and the same training again, compared: weights bit for bit, scores, and what differs."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from experiments.jobs.environment import PACKAGES, Environment
from experiments.reproduction.weights import WeightComparison
from seg.training.result import TrainResult

Kind = Literal[
    "configuration", "python", "package", "code", "commit", "machine", "devices", "threads", "flag", "unknown"
]
MEASURES = ("train_loss", "val_loss", "val_dice")
NOT_RECORDED = "not recorded"
ABSENT = "none"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!]{0,40}")
_COMMIT = re.compile(r"[0-9a-f]{4,40}")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something that was not the same in both trainings, beside their outcome.

    Attributes:
        kind: what it is of.
        name: of the package, the flag, …
        then, now: the two values, for people.
        remedy: the command that restores what was then; empty where none does.
    """

    kind: Kind
    name: str
    then: str
    now: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class HistoryComparison:
    """How the epochs of two trainings compare.

    Attributes:
        epochs_then, epochs_now: how many there were.
        best_epoch_then, best_epoch_now: whose weights were kept.
        val_dice_then, val_dice_now: of these epochs.
        first_difference: the first epoch in which a measurement differs, or that one training alone has; None: none.
        largest: by measurement, the largest absolute difference over the epochs that both have.
    """

    epochs_then: int
    epochs_now: int
    best_epoch_then: int
    best_epoch_now: int
    val_dice_then: float
    val_dice_now: float
    first_difference: int | None
    largest: Mapping[str, float]

    @property
    def equal(self) -> bool:
        best = (self.best_epoch_then, self.val_dice_then) == (self.best_epoch_now, self.val_dice_now)
        return best and self.first_difference is None


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """The outcome of `reproduce`.

    Attributes:
        run_then: the run that was trained again.
        run_now: the run that did it.
        dataset_key: of the data of both.
        weights, history: how the outcomes compare.
        differences: what was not the same beside them.
    """

    run_then: str
    run_now: str
    dataset_key: str
    weights: WeightComparison
    history: HistoryComparison
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether the weights are bit-equal, and every epoch's scores too."""
        return self.weights.bit_equal and self.history.equal

    def as_json(self) -> str:
        return json.dumps({"same": self.same, **asdict(self)}, indent=1, allow_nan=False) + "\n"


def compare_histories(then: TrainResult, now: TrainResult) -> HistoryComparison:
    """Compares the measurements of every epoch; speed is none of them."""
    first: int | None = None
    largest = dict.fromkeys(MEASURES, 0.0)
    for before, after in zip(then.history, now.history, strict=False):
        for name in MEASURES:
            difference = abs(getattr(before, name) - getattr(after, name))
            largest[name] = max(largest[name], difference)
            if difference and first is None:
                first = before.epoch
    if first is None and len(then.history) != len(now.history):
        first = min(len(then.history), len(now.history)) + 1
    return HistoryComparison(
        epochs_then=len(then.history),
        epochs_now=len(now.history),
        best_epoch_then=then.best_epoch,
        best_epoch_now=now.best_epoch,
        val_dice_then=then.val_dice,
        val_dice_now=now.val_dice,
        first_difference=first,
        largest=largest,
    )


def compare_environments(then: Environment | None, now: Environment) -> list[Difference]:
    """What differs of software and machine; `then` is None where the run did not record it."""
    if then is None:
        return [Difference(kind="unknown", name="environment", then=NOT_RECORDED, now="see environment.json")]
    found: list[Difference] = []
    if then.python != now.python:
        found.append(Difference(kind="python", name="python", then=then.python, now=now.python))
    for name, before, after in _unequal(then.packages, now.packages):
        remedy = f"pip uninstall {name}" if before == ABSENT else f"pip install {name}=={before}"
        if name not in PACKAGES or not _VERSION.fullmatch(before):
            remedy = ""  # anybody may have edited the record, and somebody may paste what is shown
        found.append(Difference(kind="package", name=name, then=before, now=after, remedy=remedy))
    found += _compare_code(then, now)
    for name in ("system", "cpu", "instructions", "cores"):
        before, after = str(getattr(then, name)), str(getattr(now, name))
        if before != after:
            found.append(Difference(kind="machine", name=name, then=before, now=after))
    if then.devices != now.devices:
        found.append(
            Difference(kind="devices", name="devices", then=", ".join(then.devices), now=", ".join(now.devices))
        )
    for name, before, after in _unequal(_as_texts(then.threads), _as_texts(now.threads)):
        found.append(Difference(kind="threads", name=f"{name} threads", then=before, now=after))
    for name, before, after in _unequal(then.flags, now.flags):
        remedy = f"unset {name}" if before == ABSENT else f"set {name} to {before}"
        found.append(Difference(kind="flag", name=name, then=before, now=after, remedy=remedy))
    return found


def _compare_code(then: Environment, now: Environment) -> Iterator[Difference]:
    files = [name for name, _, _ in _unequal(then.code, now.code)]
    before, after = (made.git_commit or NOT_RECORDED for made in (then, now))
    remedy = f"git checkout {before}" if _COMMIT.fullmatch(before) else ""  # of a dirty one there is no commit
    if files:
        yield Difference(kind="code", name=_listed(files), then=before, now=after, remedy=remedy)
    elif (then.git_commit, then.uncommitted) != (now.git_commit, now.uncommitted):
        yield Difference(kind="commit", name="commit", then=before, now=f"{after}; what trains is the same")


def _listed(files: list[str]) -> str:
    shown = ", ".join(files[:3])
    return shown if len(files) <= 3 else f"{shown} and {len(files) - 3} more files"


def _as_texts(counts: Mapping[str, int]) -> dict[str, str]:
    return {name: str(count) if count else "one per core" for name, count in counts.items()}


def _unequal(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Names whose values differ, sorted, with both values; `none` where there is none."""
    for name in sorted({*then, *now}):
        before, after = then.get(name, ABSENT), now.get(name, ABSENT)
        if before != after:
            yield name, before, after
