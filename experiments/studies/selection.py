"""Which finished trial of a study is scored on test and registered: the best, or the cheapest that is as good.

`smallest-within-1se` is the one-standard-error rule of Breiman, Friedman, Olshen and Stone, Classification and
Regression Trees (1984), section 3.4.3: of the models whose score is within one standard error of the best one's, the
simplest. A difference that small is mostly the choice of the validation images, and a smaller model is cheaper to run.
What is compared are configurations, by their means over seeds: a single trial may have had a lucky one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.command_line.progress import short
from experiments.storage.stored_study import Selection, TrialRow
from seg.errors import UserError
from seg.training.result import ModelCost

BEST, SMALLEST = "best", "smallest-within-1se"
RULES = (BEST, SMALLEST)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration that may be chosen.

    Attributes:
        trial: that would be registered: the best of its trials.
        mean: its mean Dice on validation over the seeds that all have.
        seeds: how many these are.
    """

    trial: TrialRow
    mean: float
    seeds: int


def highest(best: TrialRow) -> Selection:
    """The best trial itself.

    Args:
        best: the best trial of the best arm.
    """
    because = f"trial {best.number} has the highest validation Dice ({best.val_dice:.3f}) of the best arm"
    return Selection(trial=best.number, rule=BEST, best=best.number, standard_error=None, because=because)


def smallest_within(best: Candidate, candidates: Sequence[Candidate], error: float) -> Selection:
    """The one-standard-error rule: of the configurations at most `error` below the best, the fewest multiply-adds.

    Of equals the one with fewer parameters, then with the higher mean, then with the earlier trial. Those without a
    known cost are passed over.

    Args:
        best: the one with the highest mean.
        candidates: the configurations that have a finished trial, the best among them.
        error: standard error of the best one's mean Dice.

    Raises:
        UserError: if the best one's own cost is not known.
    """
    if best.trial.cost is None:
        raise UserError(
            f"trial {best.trial.number}, the best, must have a known cost, and is of an older version; use "
            f"select={BEST}."
        )
    within = [
        (found, found.trial.cost)
        for found in candidates
        if found.trial.cost is not None and found.mean >= best.mean - error
    ]
    chosen, cost = min(
        within,
        key=lambda found: (found[1].multiply_adds, found[1].parameters, -found[0].mean, found[0].trial.number),
    )
    return Selection(
        trial=chosen.trial.number,
        rule=SMALLEST,
        best=best.trial.number,
        standard_error=error,
        because=_because(best, best.trial.cost, chosen, cost, error, len(within)),
        least=best.mean - error,
    )


def _because(
    best: Candidate, best_cost: ModelCost, chosen: Candidate, cost: ModelCost, error: float, within: int
) -> str:
    number, several = chosen.trial.number, best.seeds > 1
    noun = "arm" if several else "trial"
    mean = f"with a mean of {best.mean:.3f} over {best.seeds} seeds" if several else f"({best.mean:.3f})"
    told = f"one standard error ({error:.3f}) of {'that of ' if several else ''}trial {best.trial.number}, the best "
    told += mean
    if chosen is best:
        return f"no {noun} within {told}, has fewer multiply-adds"
    because = f"of the {within} {noun}s within {told}, {'that of ' if several else ''}trial {number} "
    because += f"({chosen.mean:.3f}) has the fewest multiply-adds"
    if cost.multiply_adds < best_cost.multiply_adds:
        because += f", {short(cost.multiply_adds)} instead of {short(best_cost.multiply_adds)}"
    return because
