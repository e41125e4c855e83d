"""A study as a table: one line per trial (CSV), one per arm (Markdown, and cells for a page)."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from statistics import fmean
from typing import Any

from experiments.storage.stored_study import StoredStudy, TrialRow
from experiments.studies.objectives import pareto_front
from experiments.studies.search import WITHOUT_EFFECT, fingerprint
from seg.config import TrainConfig
from seg.training.result import ModelCost


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The trials of a study that differ in their seed only.

    Attributes:
        values: the options that differ between the study's arms, by name.
        base: where the arms are changes of one of them in one option each: the values of that one; else None.
        val_dice: of the finished trials, in the order of their numbers.
        by_seed: the same, by seed.
        trial_by_seed: their numbers, by seed.
        best_trial: number of the finished trial with the highest val_dice; None where none finished.
        trials_finished: numbers of the finished trials.
        trials: how many there are, those that did not finish included.
        seconds: the finished trials' mean duration; None where none finished.
    """

    values: dict[str, Any]
    base: Mapping[str, Any] | None
    val_dice: tuple[float, ...]
    by_seed: Mapping[int, float]
    trial_by_seed: Mapping[int, int]
    best_trial: int | None
    trials_finished: tuple[int, ...]
    trials: int
    seconds: float | None

    @property
    def name(self) -> str:
        """What tells it from the others: `dice, filters 16`; of changes of one arm, what is changed, or `base`.

        A learning rate of its own is named, too, where it is not the base's.
        """
        if self.base == self.values:
            return "base"
        told = {key: value for key, value in self.values.items() if self.base is None or self.base[key] != value}
        ordered = sorted(told.items(), key=lambda option: option[0] != "loss")
        words = (_number(value) if key == "loss" else f"{key} {_number(value)}" for key, value in ordered)
        return ", ".join(words) or "the only arm"

    @property
    def mean(self) -> float | None:
        return fmean(self.val_dice) if self.val_dice else None

    def mean_over(self, seeds: Sequence[int]) -> float:
        """The mean val_dice of its trials with these seeds; of all that finished, where there are none."""
        return fmean([self.by_seed[seed] for seed in seeds] if seeds else self.val_dice)


def varied(rows: Sequence[TrialRow]) -> list[str]:
    """The options, but for the seed, that differ between the trials, in the order of TrainConfig."""
    configs = [row.config for row in rows if row.config is not None]
    names = [field.name for field in fields(TrainConfig) if field.name not in (*WITHOUT_EFFECT, "seed")]
    return [name for name in names if len({getattr(config, name) for config in configs}) > 1]


def arms(rows: Sequence[TrialRow]) -> list[Arm]:
    """The arms of a study, the best mean val_dice first, those without a finished trial last.

    The means that put them in order are over the seeds that all arms with a finished trial have, if there are any.
    """
    names = varied(rows)
    grouped: dict[tuple[Any, ...], list[TrialRow]] = defaultdict(list)
    for row in rows:
        if row.config is not None:
            grouped[tuple(getattr(row.config, name) for name in names)].append(row)
    base = _base(names, list(grouped))
    found = [_arm(dict(zip(names, values, strict=True)), base, members) for values, members in grouped.items()]
    seeds = shared_seeds(found)
    return sorted(found, key=lambda arm: arm.mean_over(seeds) if arm.val_dice else -1.0, reverse=True)


def _base(names: Sequence[str], arms: Sequence[tuple[Any, ...]]) -> dict[str, Any] | None:
    """The values of the arm of which every other one is a change in one option, if two options are varied so.

    A learning rate is no change: each arm of a comparison may have chosen its own.
    """
    places = [place for place, name in enumerate(names) if name != "learning_rate"]
    designed = [tuple(arm[place] for place in places) for arm in arms]
    values = sum(len(set(column)) - 1 for column in zip(*designed, strict=True))
    if len(places) < 2 or len(set(designed)) != len(arms) or len(arms) != values + 1:
        return None
    for base, whole in zip(designed, arms, strict=True):
        if all(sum(ours != theirs for ours, theirs in zip(base, arm, strict=True)) <= 1 for arm in designed):
            return dict(zip(names, whole, strict=True))
    return None


def shared_seeds(arms: Sequence[Arm]) -> tuple[int, ...]:
    """The seeds with which every arm that has a finished trial has one, in order."""
    seeds = [set(arm.by_seed) for arm in arms if arm.by_seed]
    return tuple(sorted(set.intersection(*seeds))) if seeds else ()


def winner(rows: Sequence[TrialRow]) -> TrialRow | None:
    """The best trial of the best arm, the earliest of equals; None if none finished.

    Not the best trial of all: with several seeds, that is the luckiest one rather than one of the best arm.
    """
    best = next((arm.best_trial for arm in arms(rows)), None)
    return next((row for row in rows if row.number == best), None)


def speaking(study: StoredStudy) -> list[TrialRow]:
    """The trials of a study that speak for their arms: all, but for learning rates that an arm tried and left."""
    rates = study.settings.get("learning_rate")
    return own_rates(study.rows, rates, int(study.settings["seed"])) if isinstance(rates, list) else list(study.rows)


def own_rates(rows: Sequence[TrialRow], rates: Sequence[float], first_seed: int) -> list[TrialRow]:
    """The trials of a grid whose arms chose a learning rate each, without those of the rates that were not chosen.

    Args:
        rows: of the study.
        rates: what each arm chose from: the rate with the highest val_dice with `first_seed`, the earlier of equals.
    """
    chosen: dict[str, tuple[float, float]] = {}
    for row in finished(rows):
        assert row.config is not None
        assert row.val_dice is not None
        if row.config.seed == first_seed and row.config.learning_rate in rates:
            arm = _arm_key(row.config)
            if arm not in chosen or row.val_dice > chosen[arm][0]:
                chosen[arm] = row.val_dice, row.config.learning_rate
    return [
        row
        for row in rows
        if row.config is None
        or _arm_key(row.config) not in chosen
        or chosen[_arm_key(row.config)][1] == row.config.learning_rate
    ]


def _arm_key(config: TrainConfig) -> str:
    return fingerprint(replace(config, seed=0, learning_rate=1.0))


def finished(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The trials that ran to their end and have a score."""
    return [row for row in rows if row.state == "finished" and row.config is not None and row.val_dice is not None]


def costed(rows: Sequence[TrialRow]) -> list[tuple[TrialRow, ModelCost]]:
    """The finished trials whose cost is known."""
    return [(row, row.cost) for row in finished(rows) if row.cost is not None]


def front(rows: Sequence[TrialRow]) -> list[tuple[TrialRow, ModelCost]]:
    """The finished trials that no other one beats in Dice and latency together, the fastest first."""
    found = costed(rows)
    return [found[place] for place in pareto_front([(row.val_dice or 0.0, cost.latency_ms) for row, cost in found])]


def _arm(values: dict[str, Any], base: Mapping[str, Any] | None, members: Sequence[TrialRow]) -> Arm:
    done = finished(members)
    seconds = [row.seconds for row in done if row.seconds is not None]
    return Arm(
        values=values,
        base=base,
        val_dice=tuple(row.val_dice for row in done if row.val_dice is not None),
        by_seed={row.config.seed: row.val_dice for row in done if row.config and row.val_dice is not None},
        trial_by_seed={row.config.seed: row.number for row in done if row.config},
        best_trial=max(done, key=lambda row: (row.val_dice, -row.number)).number if done else None,
        trials_finished=tuple(row.number for row in done),
        trials=len(members),
        seconds=fmean(seconds) if seconds else None,
    )


def as_csv(rows: Sequence[TrialRow]) -> str:
    """Every trial with its whole configuration and what it costs, one per line."""
    names, costs = ([field.name for field in fields(kind)] for kind in (TrainConfig, ModelCost))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", "state", "val_dice", *names, "seconds", *costs, "run_id", "reason"])
    for row in rows:
        options = ["" if row.config is None else getattr(row.config, name) for name in names]
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        cost = astuple(row.cost) if row.cost is not None else [""] * len(costs)
        table.writerow([row.number, row.state, row.val_dice, *options, seconds, *cost, row.run_id, row.reason])
    return text.getvalue()


def as_markdown(rows: Sequence[TrialRow]) -> str:
    """The arms, best first, as a Markdown table."""
    head, *body = cells(rows)
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def cells(rows: Sequence[TrialRow]) -> list[list[str]]:
    """The arms, best first, as text: the heads, then a line per arm."""
    names = varied(rows)
    table = [[*names, "val_dice", "lowest", "highest", "finished", "seconds per trial"]]
    for arm in arms(rows):
        scores = [arm.mean, min(arm.val_dice, default=None), max(arm.val_dice, default=None)]
        table.append(
            [
                *(_number(arm.values[name]) for name in names),
                *("–" if score is None else f"{score:.3f}" for score in scores),
                f"{len(arm.val_dice)} of {arm.trials}",
                "–" if arm.seconds is None else f"{arm.seconds:.0f}",
            ]
        )
    return table


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
