"""`Finding`: one thing that is wrong with a dataset, or worth knowing about it."""

from dataclasses import dataclass

import numpy as np

SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True, kw_only=True, eq=False)
class Exhibit:
    """One example of a finding.

    Attributes:
        caption: which image or annotation it is, and what to see.
        picture: (height, width, 3) uint8 RGB; None where there is nothing to see.
    """

    caption: str
    picture: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers of a finding; every row is as long as `columns`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Numbers in [0, 1] of a finding, drawn as bars: (label, value)."""

    unit: str
    values: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found.

    Attributes:
        rule: short name, such as `boxes`.
        severity: `error`: scores on this dataset are not to be trusted; `warning`: worth repairing before training;
            `info`: good to know.
        count: how many images, annotations or categories it concerns.
        title: one line with the numbers.
        meaning: what it does to training or to scores.
        remedy: what to do about it.
        examples: a few of the `count`.
        table, bars: the numbers behind it.
    """

    rule: str
    severity: str
    count: int
    title: str
    meaning: str
    remedy: str
    examples: tuple[Exhibit, ...] = ()
    table: Table | None = None
    bars: Bars | None = None


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `3 categories`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
