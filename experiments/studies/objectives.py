"""What a study's trials are judged by: Dice alone, or Dice against latency; and which of them nothing else beats."""

from collections.abc import Mapping, Sequence
from typing import Literal

from seg.errors import UserError
from seg.training.result import ModelCost

OBJECTIVES: Mapping[str, tuple[Literal["maximize", "minimize"], ...]] = {
    "dice": ("maximize",),
    "dice,latency": ("maximize", "minimize"),
}
"""Optuna's directions of the values of a trial, by the option `objective`."""


def check_objective(objective: str) -> None:
    """Refuses an unknown one.

    Raises:
        UserError: if it is.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"objective must be {' or '.join(OBJECTIVES)}, got '{objective}'.")


def is_single(objective: str) -> bool:
    """Whether trials have one value: only then can they be pruned for it."""
    return len(OBJECTIVES[objective]) == 1


def objective_of(directions: int) -> str:
    """The objective of a study whose trials have so many values."""
    return next(name for name, each in OBJECTIVES.items() if len(each) == directions)


def objective_values(objective: str, val_dice: float, cost: ModelCost | None) -> list[float]:
    """The values of a finished trial, as Optuna has them; `cost` is known where it is one of them."""
    if is_single(objective):
        return [val_dice]
    assert cost is not None
    return [val_dice, cost.latency_ms]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points that no other one beats, from the cheapest to the most accurate; of equals the first.

    Args:
        points: Dice and cost; one point beats another if it is as good in both and better in one.
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][1], -points[place][0])):
        if not front or points[place][0] > points[front[-1]][0]:
            front.append(place)
    return front
