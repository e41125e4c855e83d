"""The card's two curves. Matplotlib's objects only: no global state, no display."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours (2008), told apart with every common form of colour blindness.
_BLUE, _VERMILION = "#0072B2", "#D55E00"
_INK, _PALE_INK, _LINE = "#22272E", "#616A75", "#E3E7EB"


def draw_threshold_curve(evaluation: Mapping[str, Any], file: Path) -> None:
    """Mean Dice over the threshold: the curve that chose it, the curve of the scored split, and the choice."""
    curve, split = evaluation["threshold_curve"], evaluation["split"]
    figure, axes = _figure()
    for name, colour in (("val", _VERMILION), (split, _BLUE)):
        if name in curve:
            axes.plot(curve["thresholds"], curve[name], "o-", color=colour, linewidth=2, markersize=4, label=name)
    axes.axvline(evaluation["threshold"], color=_INK, linewidth=1, linestyle=(0, (5, 4)))
    axes.annotate(
        f"threshold {evaluation['threshold']:.2f}",
        (evaluation["threshold"], 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        color=_INK,
        fontsize=10,
    )
    axes.set(xlabel="threshold", ylabel="mean Dice", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, labelcolor=_INK, fontsize=10, loc="best")
    figure.savefig(file)


def draw_calibration(evaluation: Mapping[str, Any], file: Path) -> None:
    """The share of foreground over the predicted probability, bin by bin, and how many pixels each bin holds."""
    bins = [part for part in evaluation["calibration"]["bins"] if part["pixels"]]
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=_PALE_INK, linewidth=1, linestyle=(0, (5, 4)), label="as sure as right")
    probability, foreground = [part["probability"] for part in bins], [part["foreground"] for part in bins]
    (measured,) = axes.plot(probability, foreground, "o-", color=_BLUE, linewidth=2, markersize=6, zorder=3)
    measured.set(label="pixels, by probability", clip_on=False)  # points at 0 and 1 stay whole
    axes.set(xlabel="predicted probability", ylabel="share that is foreground", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, labelcolor=_INK, fontsize=10, loc="upper left")
    counts = axes.inset_axes((0, 1.04, 1, 0.16), sharex=axes)
    counts.bar(
        [(part["low"] + part["high"]) / 2 for part in bins],
        [part["pixels"] for part in bins],
        width=0.09,
        color=_LINE,
        edgecolor=_PALE_INK,
        linewidth=0.6,
        log=True,
    )
    counts.tick_params(labelbottom=False, bottom=False, labelsize=8, labelcolor=_PALE_INK, length=0)
    counts.set_ylabel("pixels", color=_PALE_INK, fontsize=8)
    counts.spines[:].set_visible(False)
    figure.savefig(file)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, 4.1), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.grid(color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(color=_LINE, labelcolor=_PALE_INK, labelsize=10)
    axes.xaxis.label.set_color(_PALE_INK)
    axes.yaxis.label.set_color(_PALE_INK)
    return figure, axes
