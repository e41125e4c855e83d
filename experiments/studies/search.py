"""What a study tries: the arms of a grid with paired seeds, or a space that TPE searches."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from experiments.studies.objectives import check_objective, is_single
from seg.config import AUGMENTATIONS, LOSSES, TrainConfig
from seg.errors import UserError

SAMPLERS = ("grid", "tpe")
DESIGNS = ("factorial", "one_at_a_time")

_SEEDS_OF_A_DRIVER = 1_000_003  # more than the trials that it may find
WITHOUT_EFFECT = ("cache", "devices")
"""Fields of TrainConfig that say how, and not what, is trained."""

_NO_ARMS = {
    "loss": "it has an option of its own",
    "filters": "it has an option of its own",
    "learning_rate": "it has an option of its own, from whose values each arm takes its best",
    "image_size": "arms are compared on the same pixels",
    "epochs": "arms have equal budgets",
    "seed": "every arm has the same seeds",
    "cache": "it does not change the model",
    "devices": "it does not change the model",
}


def parse_losses(text: str) -> tuple[str, ...]:
    """`"bce,dice"` → `("bce", "dice")`; UserError for an unknown or a repeated name."""
    losses = _parse_list("loss", text)
    for loss in losses:
        if loss not in LOSSES:
            raise UserError(f"loss must be one or more of {', '.join(LOSSES)}, separated by commas, got '{loss}'.")
    return tuple(losses)


def parse_filters(text: str) -> tuple[int, ...]:
    """`"8,16"` → `(8, 16)`; UserError for what is no positive integer, or repeated."""
    try:
        filters = tuple(int(word) for word in _parse_list("filters", text))
    except ValueError:
        raise UserError(f"filters must be integers separated by commas, got '{text}'; for example 8,16.") from None
    if min(filters) < 1:
        raise UserError(f"filters must be at least 1, got {min(filters)}.")
    if len(set(filters)) < len(filters):
        raise UserError(f"filters must name each value once, got '{text}'.")
    return filters


def parse_learning_rates(text: str) -> tuple[float, ...]:
    """`"1e-3,1e-4"` → `(0.001, 0.0001)`; UserError for what is no positive number, or repeated."""
    try:
        rates = tuple(float(word) for word in _parse_list("learning_rate", text))
    except ValueError:
        raise UserError(
            f"learning_rate must be numbers separated by commas, got '{text}'; for example 0.001,0.0003."
        ) from None
    if not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise UserError(f"learning_rate must be positive numbers, got '{text}'.")
    if len(set(rates)) < len(rates):
        raise UserError(f"learning_rate must name each value once, got '{text}'.")
    return rates


def parse_arms(text: str) -> dict[str, tuple[Any, ...]]:
    """`"depth=3,4;augmentation=none,full"` → `{"depth": (3, 4), "augmentation": ("none", "full")}`; empty: none.

    Raises:
        UserError: for what names no field of TrainConfig, or one that arms cannot differ in, or no value of its type.
    """
    known = {field.name: type(field.default) for field in dataclasses.fields(TrainConfig)}
    free = [name for name in known if name not in _NO_ARMS]
    found: dict[str, tuple[Any, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, separator, values = (word.strip() for word in part.partition("="))
        if not separator:
            raise UserError(f"arms must be NAME=VALUE,VALUE;NAME=VALUE,…, got '{part}'; for example depth=3,4.")
        if name in _NO_ARMS:
            raise UserError(f"arms must not name {name}: {_NO_ARMS[name]}; choose from {', '.join(free)}.")
        if name not in known:
            raise UserError(f"arms must name options of training, got '{name}'; choose from {', '.join(free)}.")
        if name in found:
            raise UserError(f"arms must name each option once, got {name} twice.")
        found[name] = tuple(_value(name, known[name], word) for word in _parse_list(name, values))
        if len(set(found[name])) < len(found[name]):
            raise UserError(f"{name} must name each value once, got '{values}'.")
    return found


def _value(name: str, kind: type, word: str) -> Any:
    if kind is bool:
        if word not in ("True", "False"):
            raise UserError(f"{name} must be True or False, got '{word}'.")
        return word == "True"
    try:
        return kind(word)
    except ValueError:
        raise UserError(f"{name} must be values of type {kind.__name__}, got '{word}'.") from None


def _parse_list(name: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if "" in words:
        raise UserError(f"{name} must be values separated by commas, got '{text}'.")
    if len(set(words)) < len(words):
        raise UserError(f"{name} must name each value once, got '{text}'.")
    return words


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The configurations of a study.

    Attributes:
        base: every field that is not searched; its `seed` is the first seed.
        losses, filters: the values to compare (grid) or to choose from (tpe).
        others: values of further fields to compare, by name; of a grid.
        design: `factorial`: every combination of the values is an arm; `one_at_a_time`: the first value of each is the
            base, and every other value is an arm that differs from it in that alone (an ablation).
        learning_rates: if there are several, each arm of a grid takes its own from them (`tuning`); else empty.
        sampler: `grid`: the product of losses and filters, each arm with the same budget, never pruned; trial k beyond
            the number of arms repeats the arms with the next seed, so that arms are compared on the same seeds.
            `tpe`: searches loss, filters, learning_rate (a tenth to ten times the base's), depth (the base's, one less
            and one more, where image_size allows) and augmentation, with a median pruner.
        objective: what trials are judged by (`objectives.py`). With two values nothing is pruned: Optuna's
            pruners know one.

    Raises:
        UserError: if sampler, design or objective is unknown, or an arm is not a valid TrainConfig.
    """

    base: TrainConfig
    losses: tuple[str, ...]
    filters: tuple[int, ...]
    sampler: str = "grid"
    others: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = ()
    design: str = "factorial"
    objective: str = "dice"

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UserError(f"sampler must be one of {', '.join(SAMPLERS)}, got '{self.sampler}'.")
        if self.design not in DESIGNS:
            raise UserError(f"design must be one of {', '.join(DESIGNS)}, got '{self.design}'.")
        check_objective(self.objective)
        self.arms()

    def arms(self) -> list[TrainConfig]:
        """What `design` makes of the values, with the first seed and the base's learning rate."""
        lists = self._lists()
        if self.design == "one_at_a_time":
            base = replace(self.base, **{name: values[0] for name, values in lists.items()})
            changes = [{name: value} for name, values in lists.items() for value in values[1:]]
            return [base, *(replace(base, **change) for change in changes)]
        return [replace(self.base, **dict(zip(lists, values, strict=True))) for values in product(*lists.values())]

    def tuning(self) -> list[TrainConfig]:
        """Every arm with every learning rate, with the first seed; empty where arms need not choose."""
        return [replace(arm, learning_rate=rate) for arm in self.arms() for rate in self.learning_rates]

    def _lists(self) -> dict[str, tuple[Any, ...]]:
        return {"loss": self.losses, "filters": self.filters} | dict(self.others)

    def grid(self, trials: int) -> list[TrainConfig]:
        """The grid's first `trials` configurations: all arms with the first seed, then all with the next, …"""
        arms = self.arms()
        return [replace(arms[k % len(arms)], seed=self.base.seed + k // len(arms)) for k in range(trials)]

    def depths(self) -> tuple[int, int]:
        """The shallowest and the deepest network that TPE may choose: the base's depth, or one off where that fits."""
        return self._depth_or(-1), self._depth_or(+1)

    def _depth_or(self, change: int) -> int:
        try:
            return replace(self.base, depth=self.base.depth + change).depth
        except UserError:
            return self.base.depth

    def as_dict(self) -> dict[str, Any]:
        """What must stay the same for a study's trials to be comparable."""
        fixed = {name: value for name, value in self.base.as_dict().items() if name not in WITHOUT_EFFECT}
        rates = {"learning_rate": list(self.learning_rates)} if self.learning_rates else {}
        design = {} if self.design == "factorial" else {"design": self.design}
        return fixed | {name: list(values) for name, values in self._lists().items()} | rates | design

    def searched(self) -> dict[str, tuple[Any, ...]]:
        """The values of the fields that a grid's trials may differ in, the seed left out, by name."""
        return self._lists() | ({"learning_rate": self.learning_rates} if self.learning_rates else {})


def fingerprint(config: TrainConfig) -> str:
    """Equal for configurations that train the same model."""
    return json.dumps({name: value for name, value in config.as_dict().items() if name not in WITHOUT_EFFECT})


def suggest(trial: optuna.Trial, space: SearchSpace) -> TrainConfig:
    """The configuration that TPE proposes in this trial."""
    low, high = space.depths()
    rate = space.base.learning_rate
    return replace(
        space.base,
        loss=trial.suggest_categorical("loss", space.losses),
        filters=trial.suggest_categorical("filters", space.filters),
        learning_rate=trial.suggest_float("learning_rate", rate / 10, rate * 10, log=True),
        depth=trial.suggest_int("depth", low, high),
        augmentation=trial.suggest_categorical("augmentation", AUGMENTATIONS),
    )


def as_trial(space: SearchSpace, arm: TrainConfig, attributes: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """A grid's arm as a running trial of Optuna, whose parameters are what a grid's trials may differ in."""
    searched: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(values) for name, values in space.searched().items()
    }
    params = {name: getattr(arm, name) for name in searched}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING, params=params, distributions=searched, user_attrs=attributes
    )


def make_sampler(space: SearchSpace, trials_so_far: int, drivers_before: int = 0) -> optuna.samplers.BaseSampler:
    """TPE for a study that has so many trials: seeded, and not proposing again what other commands proposed.

    Args:
        drivers_before: how many drivers joined a study that several may share before this one.
    """
    seed = space.base.seed + trials_so_far + _SEEDS_OF_A_DRIVER * drivers_before
    return optuna.samplers.TPESampler(seed=seed, multivariate=True)


def make_pruner(space: SearchSpace) -> optuna.pruners.BasePruner:
    """A grid compares at equal budgets and prunes nothing; TPE stops what is below the median, after a warm-up."""
    if space.sampler == "grid" or not is_single(space.objective):
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, space.base.epochs // 4))
