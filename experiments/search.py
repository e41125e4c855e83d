"""What a study tries: the arms of a grid with paired seeds, or a space that TPE searches."""

import json
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from seg.config import AUGMENTATIONS, LOSSES, TrainConfig
from seg.errors import UserError

SAMPLERS = ("grid", "tpe")

WITHOUT_EFFECT = ("cache", "devices")
"""Fields of TrainConfig that say how, and not what, is trained."""


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
        sampler: `grid`: the product of losses and filters, each arm with the same budget, never pruned; trial k beyond
            the number of arms repeats the arms with the next seed, so that arms are compared on the same seeds.
            `tpe`: searches loss, filters, learning_rate (a tenth to ten times the base's), depth (the base's, one less
            and one more, where image_size allows) and augmentation, with a median pruner.

    Raises:
        UserError: if the sampler is unknown, or an arm is not a valid TrainConfig.
    """

    base: TrainConfig
    losses: tuple[str, ...]
    filters: tuple[int, ...]
    sampler: str = "grid"

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UserError(f"sampler must be one of {', '.join(SAMPLERS)}, got '{self.sampler}'.")
        self.arms()

    def arms(self) -> list[TrainConfig]:
        """The product of losses and filters, with the first seed."""
        return [replace(self.base, loss=loss, filters=filters) for loss, filters in product(self.losses, self.filters)]

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
        return fixed | {"loss": list(self.losses), "filters": list(self.filters)}


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


def place(trial: optuna.Trial, space: SearchSpace, arm: TrainConfig) -> TrainConfig:
    """Records a grid's arm as the parameters of this trial, whose study samples with `ArmSampler`."""
    trial.suggest_categorical("loss", space.losses)
    trial.suggest_categorical("filters", space.filters)
    return arm


class ArmSampler(optuna.samplers.BaseSampler):
    """Gives every parameter the value that it has in `arm`; the driver sets the arm before it asks."""

    arm: TrainConfig

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return getattr(self.arm, param_name)


def make_sampler(space: SearchSpace, trials_so_far: int) -> optuna.samplers.BaseSampler:
    """The sampler of a study that has so many trials: seeded, and not proposing the first trials again."""
    if space.sampler == "grid":
        return ArmSampler()
    return optuna.samplers.TPESampler(seed=space.base.seed + trials_so_far, multivariate=True)


def make_pruner(space: SearchSpace) -> optuna.pruners.BasePruner:
    """A grid compares at equal budgets and prunes nothing; TPE stops what is below the median, after a warm-up."""
    if space.sampler == "grid":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, space.base.epochs // 4))
