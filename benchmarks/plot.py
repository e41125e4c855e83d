"""One picture of a benchmark: how many times as good as the reference each contender is, case by case."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.harness import CaseResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.34  # inches of a case
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKS = "osD^vPX"
_COARSE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
_FINE = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3, 4, 5)


def plot(results: Sequence[CaseResult]) -> "Figure":
    """A row for each case, a mark for each contender: the median gain over the first one, with its range by rounds."""
    from matplotlib.figure import Figure

    shown = [result for result in results if any(_gains(result, name) for name in list(result.outcomes)[1:])]
    parts = list(dict.fromkeys(result.case.part for result in shown))
    rows = {part: [result for result in shown if result.case.part == part] for part in parts}
    # Each part needs room for its title and the numbers of its axis, whatever it holds.
    heights = [len(found) * _ROW + 0.25 * (1 + _legend_rows(found)) for found in rows.values()] or [1.0]
    figure = Figure(figsize=(10, sum(heights) + 0.75 * len(heights) + 0.4), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for part, axis in zip(parts, axes, strict=False):
        found = rows[part]
        styles = _styles(found)
        labelled: set[str] = set()
        for place, result in enumerate(reversed(found)):
            for name, (colour, mark) in styles.items():
                gains = _gains(result, name)
                if not gains:
                    continue
                middle = result.gain(name, result.case.contenders[0].name)
                assert middle is not None
                axis.plot([min(gains), max(gains)], [place, place], color=colour, linewidth=2, alpha=0.45)
                label = None if name in labelled else name
                labelled.add(name)
                axis.plot([middle], [place], mark, color=colour, markersize=6, label=label)
        axis.axvline(1, color="0.35", linewidth=1)
        axis.set_xscale("log")
        axis.set_xticks([])
        axis.set_xticks([], minor=True)
        low, high = axis.get_xlim()
        low, high = min(low, 0.8), max(high, 1.25)
        axis.set_xlim(low, high)
        ticks = [tick for tick in (_FINE if high / low < 6 else _COARSE) if low <= tick <= high]
        axis.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
        axis.set_yticks(range(len(found)), [result.case.name for result in reversed(found)])
        axis.set_ylim(-0.6, len(found) - 0.4)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        references = " or ".join(dict.fromkeys(result.case.contenders[0].name for result in found))
        axis.set_title(f"{part.replace('_', ' ')}: {references} = 1×", loc="left", fontsize=10, fontweight="bold")
        axis.legend(
            fontsize=8, ncols=4, loc="upper left", bbox_to_anchor=(0, -0.28 / (len(found) * _ROW + 0.2)), frameon=False
        )
    figure.supxlabel(
        "beside the first contender of each case (the line): to the right better, to the left worse", fontsize=9
    )
    return figure


def _legend_rows(found: Sequence[CaseResult]) -> int:
    return -(-len(_styles(found)) // 4)


def _styles(found: Sequence[CaseResult]) -> dict[str, tuple[str, str]]:
    """Colour and mark of each contender of a part that is not the first of its case."""
    names = dict.fromkeys(name for result in found for name in list(result.outcomes)[1:])
    return {name: (_COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]) for number, name in enumerate(names)}


def _gains(result: CaseResult, name: str) -> list[float]:
    """How many times as good a contender is as the first, by round; empty where one of them has no values."""
    reference = result.outcomes[result.case.contenders[0].name].values
    if name not in result.outcomes:
        return []
    pairs = zip(result.outcomes[name].values, reference, strict=False)
    return [one / other if result.case.higher_is_better else other / one for one, other in pairs]
