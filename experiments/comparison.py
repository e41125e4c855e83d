"""A study as a table: one line per trial (CSV), one per arm (Markdown and HTML)."""

import csv
import html
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from experiments.search import WITHOUT_EFFECT
from experiments.storage import TrialRow
from seg.config import TrainConfig

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22272e; margin: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #616a75; padding-bottom: .6rem; }
th { text-align: left; color: #616a75; font-weight: 500; border-bottom: 2px solid #d0d7de; }
th, td { padding: .35rem 1.1rem .35rem 0; }
td { border-bottom: 1px solid #eaeef2; }
tr.best td { font-weight: 600; background: #e8f4fb; }
"""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The trials of a study that differ in their seed only.

    Attributes:
        values: the options that differ between the study's arms, by name.
        val_dice: of the finished trials, in the order of their numbers.
        trials: how many there are, those that did not finish included.
        seconds: the finished trials' mean duration; None where none finished.
    """

    values: dict[str, Any]
    val_dice: tuple[float, ...]
    trials: int
    seconds: float | None

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
    head, *body = _cells(rows)
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def as_html(rows: Sequence[TrialRow], title: str) -> str:
    """The arms, best first, as a page that needs nothing else."""
    head, *body = _cells(rows)
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    for number, line in enumerate(body):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in line)
        opening = '<tr class="best">' if number == 0 else "<tr>"
        lines.append(f"{opening}{cells}</tr>")
    caption = f"<caption>{html.escape(title)}: mean val_dice of each arm's trials, best first</caption>"
    table = "\n".join(lines)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n<table>{caption}\n{table}\n</table></html>\n"
    )


def _cells(rows: Sequence[TrialRow]) -> list[list[str]]:
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
