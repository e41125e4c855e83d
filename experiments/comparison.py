"""A study as a table: one line per trial (CSV), one per arm (Markdown, and cells for a page)."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from experiments.search import WITHOUT_EFFECT
from experiments.storage import TrialRow
from seg.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The trials of a study that differ in their seed only.

    Attributes:
        values: the options that differ between the study's arms, by name.
        val_dice: of the finished trials, in the order of their numbers.
        by_seed: the same, by seed.
        best_trial: number of the finished trial with the highest val_dice; None where none finished.
        trials_finished: numbers of the finished trials.
        trials: how many there are, those that did not finish included.
        seconds: the finished trials' mean duration; None where none finished.
    """

    values: dict[str, Any]
    val_dice: tuple[float, ...]
    by_seed: Mapping[int, float]
    best_trial: int | None
    trials_finished: tuple[int, ...]
    trials: int
    seconds: float | None

    @property
    def name(self) -> str:
        """What tells it from the others: `dice, filters 16`."""
        ordered = sorted(self.values.items(), key=lambda option: option[0] != "loss")
        words = (_number(value) if key == "loss" else f"{key} {_number(value)}" for key, value in ordered)
        return ", ".join(words) or "the only arm"

    @property
    def mean(self) -> float | None:
        return fmean(self.val_dice) if self.val_dice else None


def varied(rows: Sequence[TrialRow]) -> list[str]:
    """The options, but for the seed, that differ between the trials, in the order of TrainConfig."""
    configs = [row.config for row in rows if row.config is not None]
    names = [field.name for field in fields(TrainConfig) if field.name not in (*WITHOUT_EFFECT, "seed")]
    return [name for name in names if len({getattr(config, name) for config in configs}) > 1]


def arms(rows: Sequence[TrialRow]) -> list[Arm]:
    """The arms of a study, the best mean val_dice first, those without a finished trial last."""
    names = varied(rows)
    grouped: dict[tuple[Any, ...], list[TrialRow]] = defaultdict(list)
    for row in rows:
        if row.config is not None:
            grouped[tuple(getattr(row.config, name) for name in names)].append(row)
    found = [_arm(dict(zip(names, values, strict=True)), members) for values, members in grouped.items()]
    return sorted(found, key=lambda arm: -1.0 if arm.mean is None else arm.mean, reverse=True)


def finished(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The trials that ran to their end and have a score."""
    return [row for row in rows if row.state == "finished" and row.config is not None and row.val_dice is not None]


def _arm(values: dict[str, Any], members: Sequence[TrialRow]) -> Arm:
    done = finished(members)
    seconds = [row.seconds for row in done if row.seconds is not None]
    return Arm(
        values=values,
        val_dice=tuple(row.val_dice for row in done if row.val_dice is not None),
        by_seed={row.config.seed: row.val_dice for row in done if row.config and row.val_dice is not None},
        best_trial=max(done, key=lambda row: (row.val_dice, -row.number)).number if done else None,
        trials_finished=tuple(row.number for row in done),
        trials=len(members),
        seconds=fmean(seconds) if seconds else None,
    )


def as_csv(rows: Sequence[TrialRow]) -> str:
    """Every trial with its whole configuration, one per line."""
    names = [field.name for field in fields(TrainConfig)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", "state", "val_dice", *names, "seconds", "run_id", "reason"])
    for row in rows:
        options = ["" if row.config is None else getattr(row.config, name) for name in names]
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        table.writerow([row.number, row.state, row.val_dice, *options, seconds, row.run_id, row.reason])
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
