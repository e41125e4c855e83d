"""The pictures of runs and studies. Matplotlib's objects only: no global state, no display, safe beside threads."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from experiments.comparison import finished, varied
from experiments.figures import BLUE, GREEN, INK, PALE_INK, PURPLE, SKY, VERMILION, new_figure
from experiments.storage import TrialRow
from seg.config import LOSSES

_LOSS_COLOURS = dict(zip(LOSSES, (BLUE, VERMILION, GREEN, PURPLE, SKY), strict=True))
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))  # by width, narrow to wide
_FEWEST_FOR_IMPORTANCE = 4  # finished trials


def curves_by_trial(rows: Sequence[TrialRow], best: int | None = None, title: str = "") -> Figure:
    """val_dice of every trial over its epochs: colour by loss, dashes by width, the best trial in bold.

    Args:
        rows: of the study; those that reported no epoch are left out.
        best: number of the trial to stress.
        title: of the figure.
    """
    figure, (axes,) = new_figure(1, width=8.0, title=title)
    shown = [(row, row.config) for row in rows if row.curve and row.config is not None]
    widths = sorted({config.filters for _, config in shown})
    dashes = dict(zip(widths, _DASHES, strict=False)) if len(widths) <= len(_DASHES) else {}
    for row, config in shown:
        stressed = row.number == best
        axes.plot(
            list(row.curve),
            list(row.curve.values()),
            color=_LOSS_COLOURS[config.loss],
            linestyle=dashes.get(config.filters, "-"),
            linewidth=3 if stressed else 1.4,
            alpha=1.0 if stressed else 0.7,
            marker="o" if len(row.curve) == 1 else None,  # a line through one point is not seen
            zorder=4 if stressed else 2,
        )
    for loss in (loss for loss in LOSSES if any(config.loss == loss for _, config in shown)):
        axes.plot([], [], color=_LOSS_COLOURS[loss], linewidth=3, label=loss)
    for width in dashes if len(dashes) > 1 else ():
        axes.plot([], [], color=PALE_INK, linestyle=dashes[width], label=f"filters {width}")
    axes.set(xlabel="epoch", ylabel="val_dice", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend(axes)
    return figure


def as_svg(figure: Figure) -> bytes:
    """The figure as lines instead of pixels: sharp on paper and at any size."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def dice_by_arm(rows: Sequence[TrialRow], baselines: Mapping[str, float] | None = None, title: str = "") -> Figure:
    """val_dice by width and loss: a point per finished trial, a bar at each arm's mean.

    Args:
        rows: of the study.
        baselines: trivial scores to draw as dashed lines, by name.
        title: of the figure.
    """
    figure, (axes,) = new_figure(1, width=8.0, title=title)
    done = finished(rows)
    widths = sorted({row.config.filters for row in done if row.config})
    losses = [loss for loss in LOSSES if any(row.config and row.config.loss == loss for row in done)]
    for number, loss in enumerate(losses):
        shift = (number - (len(losses) - 1) / 2) * 0.8 / max(len(losses), 1)
        for place, width in enumerate(widths):
            scores = [
                row.val_dice
                for row in done
                if row.config and row.val_dice is not None and (row.config.loss, row.config.filters) == (loss, width)
            ]
            if scores:
                _arm(axes, place + shift, scores, _LOSS_COLOURS[loss])
        axes.plot([], [], "o", color=_LOSS_COLOURS[loss], label=loss)
    for score in (baselines or {}).values():
        axes.axhline(score, color=PALE_INK, linewidth=1, linestyle=(0, (5, 4)), zorder=1)
    axes.set(xlabel="filters of the first level", ylabel="val_dice", xlim=(-0.6, max(len(widths), 1) - 0.4))
    axes.set_xticks(range(len(widths)), [str(width) for width in widths])
    axes.margins(y=0.12)  # room for the means above the points
    _name_baselines(axes, baselines or {})
    axes.grid(visible=False, axis="x")
    if losses:
        above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": len(losses)}
        axes.legend(frameon=False, labelcolor=INK, fontsize=10, **above)
    return figure


def optimisation_history(rows: Sequence[TrialRow], title: str = "") -> Figure:
    """val_dice of each trial in order, and the best so far; pruned and failed trials are marked."""
    figure, (axes,) = new_figure(1, width=8.0, title=title)
    done = finished(rows)
    if done:
        numbers = [row.number for row in done]
        scores = [row.val_dice for row in done if row.val_dice is not None]
        best = np.maximum.accumulate(scores)
        axes.step([*numbers, max(row.number for row in rows)], [*best, best[-1]], where="post", color=VERMILION)
        axes.plot([], [], color=VERMILION, label=f"best so far ({best[-1]:.3f})")
        axes.plot(numbers, scores, "o", color=BLUE, alpha=0.8, label="finished", zorder=3)
    pruned = [(row.number, row.val_dice) for row in rows if row.state == "pruned" and row.val_dice is not None]
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "o", color=PALE_INK, markerfacecolor="white", label="pruned", zorder=3)
    failed = [row.number for row in rows if row.state == "failed"]
    if failed:
        bottom = axes.get_xaxis_transform()
        axes.plot(failed, [0.02] * len(failed), "x", color=INK, transform=bottom, label="failed", clip_on=False)
    axes.set(xlabel="trial", ylabel="val_dice")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend(axes)
    return figure


def parameter_importance(rows: Sequence[TrialRow], title: str = "") -> Figure | None:
    """How much of val_dice's variance each option explains (fANOVA, Hutter et al., 2014).

    None where there is nothing to tell: fewer than four finished trials, equal scores, or nothing that varies.
    """
    importances = _importances(rows)
    if not importances:
        return None
    figure, (axes,) = new_figure(1, width=8.0, title=title)
    names, shares = list(importances)[::-1], list(importances.values())[::-1]
    bars = axes.barh(names, shares, color=BLUE, height=0.4)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=5, color=PALE_INK)
    axes.set(xlabel="share of the variance of val_dice", xlim=(0, max(shares) * 1.15), ylim=(-0.6, len(names) - 0.4))
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.grid(visible=False, axis="y")
    return figure


def _importances(rows: Sequence[TrialRow]) -> dict[str, float]:
    """By option, the largest first. The trials are copied into a study in memory: a grid's is not Optuna's own."""
    done = finished(rows)
    names = varied(done)
    if len(done) < _FEWEST_FOR_IMPORTANCE or not names or len({row.val_dice for row in done}) < 2:
        return {}
    values = {name: [getattr(row.config, name) for row in done] for name in names}
    ranges = {name: _distribution(found) for name, found in values.items()}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
        for place, row in enumerate(done):
            params = {name: values[name][place] for name in names}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=row.val_dice))
        return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    finally:
        optuna.logging.set_verbosity(verbosity)


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    numbers = [value for value in values if isinstance(value, float)]
    if len(numbers) == len(values):
        return FloatDistribution(min(numbers), max(numbers), log=True)
    return CategoricalDistribution(sorted(set(values), key=str))


def _name_baselines(axes: Axes, baselines: Mapping[str, float]) -> None:
    """Beside the axes, where no arm's number is; those that would cover each other move up."""
    low, high = axes.get_ylim()
    place = -np.inf
    for name, score in sorted(baselines.items(), key=lambda baseline: baseline[1]):
        place = max(score, place + 0.05 * (high - low))
        axes.annotate(
            f"{name.replace('_', ' ')} {score:.3f}",
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=9,
            color=PALE_INK,
        )


def _arm(axes: Axes, x: float, scores: Sequence[float], colour: str) -> None:
    mean = float(np.mean(scores))
    axes.plot([x] * len(scores), scores, "o", color=colour, alpha=0.45, markersize=7, markeredgewidth=0, zorder=3)
    axes.plot([x - 0.11, x + 0.11], [mean, mean], color=colour, linewidth=3, solid_capstyle="round", zorder=4)
    axes.annotate(
        f"{mean:.3f}",
        (x, max(scores)),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=10,
        color=INK,
    )


def _legend(axes: Axes, title: str | None = None) -> None:
    if axes.get_legend_handles_labels()[0]:
        # Beside the axes: inside, it covers points or a baseline sooner or later.
        legend = axes.legend(
            title=title, frameon=False, fontsize=10, title_fontsize=10, loc="upper left", bbox_to_anchor=(1.01, 1)
        )
        legend.set_alignment("left")
        for text in (*legend.get_texts(), legend.get_title()):
            text.set_color(INK)
