"""Where the names of points go in a plot, so that they cover neither each other nor points."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

_GAP = 7.0  # points between the middle of a mark and its name
_SIDES = {
    "above left": (-1, 1, "right", "bottom"),
    "left": (-1.3, 0, "right", "center"),
    "above": (0, 1.2, "center", "bottom"),
    "right": (1.3, 0, "left", "center"),
    "below right": (1, -1, "left", "top"),
    "below": (0, -1.2, "center", "top"),
    "above right": (1, 1, "left", "bottom"),
    "below left": (-1, -1, "right", "top"),
}
_UPPER = tuple(_SIDES)
_LOWER = ("below right", "right", "below", "left", "below left", "above right", "above", "above left")


@dataclass(frozen=True, kw_only=True)
class Name:
    """A name of a point.

    Attributes:
        text: what is written.
        x, y: the point, as data.
        upper: whether the place above and to the left is the first choice, else that below and to the right.
        colour: of the text.
    """

    text: str
    x: float
    y: float
    upper: bool
    colour: str


def place_names(
    axes: Axes,
    names: Sequence[Name],
    marks: Sequence[tuple[float, float]],
    lines: Sequence[Sequence[tuple[float, float]]],
) -> None:
    """Writes each name beside its point, on the side where it covers least.

    Args:
        axes: where the points are drawn; its figure has its final layout.
        names: in the order in which they choose their places.
        marks: all points, as data.
        lines: of horizontal and vertical pieces: their corners, as data.
    """
    point = axes.figure.dpi / 72
    taken = [_around(axes.transData.transform([mark]), 5 * point) for mark in marks]
    for corners in lines:
        taken += [_around(axes.transData.transform(piece), 2 * point) for piece in pairwise(corners)]
    inside = axes.get_window_extent()
    for name in names:
        options = []
        for rank, side in enumerate(_UPPER if name.upper else _LOWER):
            dx, dy, horizontal, vertical = _SIDES[side]
            text = axes.annotate(
                name.text,
                (name.x, name.y),
                xytext=(dx * _GAP, dy * _GAP),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=9,
                color=name.colour,
                zorder=5,
            )
            text.set_in_layout(False)
            box = text.get_window_extent()
            options.append((_covered(box, taken) + _outside(box, inside), rank, text, box))
        *others, (_, _, _, box) = sorted(options, key=lambda option: option[:2], reverse=True)
        for _, _, text, _ in others:
            text.remove()
        taken.append(box)


def _around(corners: NDArray[np.float64], margin: float) -> Bbox:
    return Bbox([corners.min(axis=0) - margin, corners.max(axis=0) + margin])


def _covered(box: Bbox, others: Sequence[Bbox]) -> float:
    """Pixels of the others that lie under a box."""
    common = (Bbox.intersection(box, other) for other in others)
    return float(sum(each.width * each.height for each in common if each is not None))


def _outside(box: Bbox, frame: Bbox) -> float:
    within = Bbox.intersection(box, frame)
    return float(box.width * box.height - (within.width * within.height if within is not None else 0.0))
