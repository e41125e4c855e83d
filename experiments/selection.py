"""Which finished trial of a study is scored on test and registered: the best, or the cheapest that is as good.

`smallest-within-1se` is the one-standard-error rule of Breiman, Friedman, Olshen and Stone, Classification and
Regression Trees (1984), section 3.4.3: of the models whose score is within one standard error of the best one's, the
simplest. A difference that small is mostly the choice of the validation images, and a smaller model is cheaper to run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.progress import short
from seg.errors import UserError

if TYPE_CHECKING:  # which keeps selections
    from experiments.stored_study import TrialRow

BEST, SMALLEST = "best", "smallest-within-1se"
RULES = (BEST, SMALLEST)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The trial that a study registers.

    Attributes:
        trial: its number.
        rule: one of `RULES`.
        best: number of the best trial.
        standard_error: of the best trial's mean Dice on validation; None where the rule asks for none.
        because: why it, for people, in one line.
    """

    trial: int
    rule: str
    best: int
    standard_error: float | None
    because: str


def highest(best: "TrialRow") -> Selection:
    """The best trial itself.

    Args:
        best: the best trial of the best arm.
    """
    because = f"trial {best.number} has the highest validation Dice ({best.val_dice:.3f}) of the best arm"
    return Selection(trial=best.number, rule=BEST, best=best.number, standard_error=None, because=because)


def smallest_within(best: "TrialRow", candidates: Sequence["TrialRow"], error: float) -> Selection:
    """The one-standard-error rule: of the trials at most `error` below the best, that with the fewest multiply-adds.

    Of equals the one with fewer parameters, then with the higher Dice, then the earlier one. Trials without a known
    cost are passed over.

    Args:
        best: the best trial of the best arm.
        candidates: finished trials, the best among them.
        error: standard error of the best trial's mean Dice per image.

    Raises:
        UserError: if the best trial's own cost is not known.
    """
    if best.cost is None:
        raise UserError(
            f"trial {best.number}, the best, must have a known cost, and is of an older version; use select={BEST}."
        )
    assert best.val_dice is not None
    within = [
        (row, row.cost, row.val_dice)
        for row in candidates
        if row.cost is not None and row.val_dice is not None and row.val_dice >= best.val_dice - error
    ]
    chosen, cost, dice = min(
        within, key=lambda found: (found[1].multiply_adds, found[1].parameters, -found[2], found[0].number)
    )
    told = f"one standard error ({error:.3f}) of trial {best.number}, the best ({best.val_dice:.3f})"
    because = (
        f"of the {len(within)} trials within {told}, trial {chosen.number} ({dice:.3f}) has the fewest multiply-adds"
    )
    if chosen.number == best.number:
        because = f"no trial within {told}, has fewer multiply-adds"
    elif cost.multiply_adds < best.cost.multiply_adds:
        because += f", {short(cost.multiply_adds)} instead of {short(best.cost.multiply_adds)}"
    return Selection(trial=chosen.number, rule=SMALLEST, best=best.number, standard_error=error, because=because)
