"""How the project's pictures look, and the one that a training draws of itself: without Optuna and MLflow.

Matplotlib's objects only: no global state, no display, safe beside threads.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seg.training.result import EpochReport

# Okabe and Ito's colours (2008), told apart with every common form of colour blindness.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY = "#CC79A7", "#56B4E9"
INK, PALE_INK, LINE = "#22272E", "#616A75", "#E3E7EB"


def new_figure(columns: int, width: float, title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, 4.2), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=0.015, ha="left", fontsize=13, fontweight="bold", color=INK)
    found = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(LINE)
        axes.grid(color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(color=LINE, labelcolor=PALE_INK, labelsize=10)
        axes.title.set(fontsize=11, color=INK)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(fontsize=11, color=PALE_INK)
    return figure, found


def draw_line(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, label: str) -> None:
    # One epoch is a point, and a line through one point is not seen.
    axes.plot(x, y, color=colour, linewidth=2, marker="o", markersize=3.5, label=label)


def learning_curves(history: Sequence[EpochReport], title: str = "") -> Figure:
    """Losses and val_dice of one run over its epochs; the best epoch is marked."""
    figure, (losses, dice) = new_figure(2, width=9.6, title=title)
    epochs = [report.epoch for report in history]
    draw_line(losses, epochs, [report.train_loss for report in history], BLUE, "train_loss")
    draw_line(losses, epochs, [report.val_loss for report in history], VERMILION, "val_loss")
    losses.set(xlabel="epoch", title="loss")
    draw_line(dice, epochs, [report.val_dice for report in history], GREEN, "val_dice")
    best = max(history, key=lambda report: report.val_dice, default=None)
    if best is not None:
        dice.plot(best.epoch, best.val_dice, "o", markersize=9, markerfacecolor="none", color=INK)
        dice.axhline(best.val_dice, color=PALE_INK, linewidth=0.8, linestyle=":")
        dice.set_title(f"val_dice: best {best.val_dice:.3f} in epoch {best.epoch}")
    dice.set(xlabel="epoch", ylim=(0, 1))
    for axes in (losses, dice):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    losses.legend(frameon=False, labelcolor=INK, fontsize=10, loc="upper right")
    return figure
