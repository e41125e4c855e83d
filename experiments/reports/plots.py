"""The pictures of runs and studies. Matplotlib's objects only: no global state, no display, safe beside threads."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from experiments.jobs.figures import BLUE, GREEN, INK, LINE, PALE_INK, PURPLE, SKY, VERMILION, new_figure
from experiments.reports.label_places import Name, place_names
from experiments.storage.stored_study import Selection, TrialRow
from experiments.studies.comparison import arms, costed, finished, varied
from experiments.studies.objectives import pareto_front
from seg.config import LOSSES

_LOSS_COLOURS = dict(zip(LOSSES, (BLUE, VERMILION, GREEN, PURPLE, SKY), strict=True))
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))  # by width, narrow to wide
_FEWEST_FOR_IMPORTANCE = 4  # finished trials
_LOG_FROM = 4.0  # times that the dearest trial costs what the cheapest does
_MOST_NAMES, _LONGEST_NAME = 8, 30  # beyond, only trials on the front are named, and by their numbers


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
    # Not above: it imports scikit-learn, which takes longer than all else of a report, and few studies are so long.
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

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
        return FloatDistribution(min(numbers), max(numbers), log=min(numbers) > 0)
    return CategoricalDistribution(sorted(set(values), key=str))


def trade_off(rows: Sequence[TrialRow], selection: Selection | None = None, title: str = "") -> Figure | None:
    """val_dice against the milliseconds of one image, and against its multiply-adds; a point per finished trial.

    The line is the front: the trials that no other one beats in both. None where fewer than two have a known cost.

    Args:
        rows: of the study.
        selection: the trial to ring, and the line that its rule draws.
        title: of the figure.
    """
    found = costed(rows)
    if len(found) < 2:
        return None
    figure, (latency, work) = new_figure(2, width=11.0, title=title)
    latency.set(xlabel="milliseconds for one image", ylabel="val_dice")
    work.set(xlabel="multiply-adds for one image")
    work.sharey(latency)
    work.tick_params(labelleft=False)
    by_panel = [
        (latency, {row.number: cost.latency_ms for row, cost in found}),
        (work, {row.number: float(cost.multiply_adds) for row, cost in found}),
    ]
    done = [row for row, _ in found]
    lines = [_front(axes, done, costs, selection) for axes, costs in by_panel]
    for loss in (loss for loss in LOSSES if any(row.config and row.config.loss == loss for row in done)):
        work.plot([], [], "o", color=_LOSS_COLOURS[loss], label=loss)
    work.plot([], [], color=INK, linewidth=1.2, label="front")
    if selection is not None:
        work.plot([], [], "o", markersize=11, markerfacecolor="none", color=INK, label="registered")
        if selection.least is not None:
            below = "one standard error\nbelow the best"
            work.plot([], [], color=PALE_INK, linewidth=1, linestyle=(0, (5, 4)), label=below)
    _legend(work)
    figure.draw_without_rendering()  # the names are placed in the final layout
    for (axes, costs), drawn in zip(by_panel, lines, strict=True):
        points = {row.number: (costs[row.number], row.val_dice or 0.0) for row in done}
        place_names(axes, _names(done, points), list(points.values()), drawn)
    return figure


def _front(
    axes: Axes, rows: Sequence[TrialRow], costs: Mapping[int, float], selection: Selection | None
) -> list[list[tuple[float, float]]]:
    """One panel without its names: the trials' Dice against what they cost. Returns the corners of its lines."""
    points = [(row.val_dice or 0.0, costs[row.number]) for row in rows]
    front = pareto_front(points)
    axes.margins(x=0.14, y=0.16)  # room for the names
    for place, ((dice, cost), row) in enumerate(zip(points, rows, strict=True)):
        assert row.config is not None
        shown: dict[str, Any] = {"alpha": 1.0 if place in front else 0.4, "markersize": 7, "markeredgewidth": 0}
        axes.plot(cost, dice, "o", color=_LOSS_COLOURS[row.config.loss], zorder=4, **shown)
        if selection is not None and row.number == selection.trial:
            axes.plot(cost, dice, "o", markersize=13, markerfacecolor="none", color=INK, zorder=5)
    least = None if selection is None else selection.least
    if least is not None:
        axes.axhline(least, color=PALE_INK, linewidth=1, linestyle=(0, (5, 4)), zorder=2)
    _cost_scale(axes, list(costs.values()))
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    corners = [(points[front[0]][1], low)]
    for place in front:
        corners += [(points[place][1], corners[-1][1]), (points[place][1], points[place][0])]
    corners.append((right, corners[-1][1]))
    x, y = zip(*corners, strict=True)
    axes.plot(x, y, color=INK, linewidth=1.2, zorder=3)
    axes.fill_between(x, y, low, color=LINE, alpha=0.45, linewidth=0, zorder=0)
    axes.set(xlim=(left, right), ylim=(low, high))
    return [corners] if least is None else [corners, [(left, least), (right, least)]]


def _names(rows: Sequence[TrialRow], points: Mapping[int, tuple[float, float]]) -> list[Name]:
    """Names the arms at their best trials, those on the front first; a search's long names are trials' numbers."""
    order = [row.number for row in rows]
    front = {order[place] for place in pareto_front([(points[number][1], points[number][0]) for number in order])}
    found = arms(rows)
    long = any(len(arm.name) > _LONGEST_NAME for arm in found)
    anchors = []
    for arm in found:
        best = max(arm.trials_finished, key=lambda number: (number in front, points[number][1]))
        anchors.append((best, f"trial {best}" if long else arm.name))
    if len(anchors) > _MOST_NAMES:
        anchors = [(best, name) for best, name in anchors if best in front]
    return [
        Name(
            text=name,
            x=points[best][0],
            y=points[best][1],
            upper=best in front,
            colour=INK if best in front else PALE_INK,
        )
        for best, name in sorted(anchors, key=lambda anchor: anchor[0] not in front)
    ]


def _cost_scale(axes: Axes, costs: Sequence[float]) -> None:
    """Logarithmic where costs are far apart; numbers as 20 M."""
    if min(costs) > 0 and max(costs) / min(costs) >= _LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter())


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
