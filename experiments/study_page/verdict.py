"""What a study's trials allow to say about its arms, and how sure that is. Words only for what the numbers carry."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.comparison import Arm, arms
from experiments.storage import TrialRow

_CHANCE = 0.05
"""A lead that chance alone gives more often than this decides nothing."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to which arm is best.

    Attributes:
        decided: the trials say which arm is best.
        headline: one sentence.
        reasons: the sentences behind it.
    """

    decided: bool
    headline: str
    reasons: tuple[str, ...]


def judge(rows: Sequence[TrialRow], sampler: str) -> Verdict:
    """Compares the best two arms, seed by seed.

    Leads of one arm over the other on paired seeds are counted: if both were equal, each seed would be the toss of a
    coin (the sign test, two-sided). As the two were picked from all arms after looking, the probability is multiplied
    by the number of pairs (Bonferroni). Nothing is assumed about how scores spread.
    """
    scored = [arm for arm in arms(rows) if arm.mean is not None]
    if not scored:
        return Verdict(decided=False, headline="No trial finished: there is no answer yet.", reasons=())
    best = scored[0]
    if len(scored) == 1:
        return Verdict(
            decided=False,
            headline=f"One arm finished ({best.name}): there is nothing to compare it with.",
            reasons=_unfinished(rows),
        )
    if sampler == "tpe":
        return Verdict(
            decided=False,
            headline=f"The search found {best.name}; that it is better than its neighbours is not shown.",
            reasons=(
                "A search spends its trials where scores were good and stops the others early, so its arms had "
                "unequal chances. To compare two of them, train both on a grid with the same seeds.",
                *_unfinished(rows),
            ),
        )
    return _compare(best, scored[1], len(scored), _unfinished(rows))


def _compare(best: Arm, second: Arm, count: int, unfinished: tuple[str, ...]) -> Verdict:
    assert best.mean is not None
    assert second.mean is not None
    seeds = sorted(best.by_seed.keys() & second.by_seed.keys())
    leads = [best.by_seed[seed] - second.by_seed[seed] for seed in seeds]
    ahead = sum(lead > 0 for lead in leads)
    behind = sum(lead < 0 for lead in leads)
    score = "val_dice" if len(best.val_dice) == len(second.val_dice) == 1 else "mean val_dice"
    margin = f"Its {score} is {best.mean:.3f}; the next, {second.name}, has {second.mean:.3f}."
    if len(seeds) < 2:
        return Verdict(
            decided=False,
            headline=f"{best.name} scored highest, but the comparison is not decided: one seed per arm.",
            reasons=(
                f"{margin} The same arm trained with another seed scores differently too, and one training per arm "
                f"cannot tell by how much. More trials repeat the arms with further seeds: with {2 * count} trials "
                "every arm has two.",
                *unfinished,
            ),
        )
    pairs = count * (count - 1) // 2
    chance = min(1.0, pairs * sign_test(ahead, behind))
    counted = f"With the same seeds it is ahead of that arm on {ahead} of {len(seeds)}"
    told = f"{counted}, by {sum(leads) / len(leads):+.3f} on average ({min(leads):+.3f} to {max(leads):+.3f})."
    odds = _in_words(chance, count)
    decided = chance <= _CHANCE and ahead > behind
    if decided:
        headline = f"{best.name} is best: ahead of {second.name} on {ahead} of {len(seeds)} seeds."
    else:
        headline = f"{best.name} scored highest, but {len(seeds)} seeds per arm do not decide the comparison."
        odds += f" At least {_fewest_seeds(pairs)} seeds, all pointing the same way, would decide it."
    return Verdict(decided=decided, headline=headline, reasons=(margin, told, odds, *unfinished))


def _in_words(chance: float, count: int) -> str:
    if chance == 1:
        return "Equal arms part like this all the time."
    if count == 2:
        return f"Two equal arms would part this clearly, one way or the other, with a probability of {chance:.0%}."
    return f"If all {count} arms were equal, two would part this clearly with a probability up to {chance:.0%}."


def sign_test(ahead: int, behind: int) -> float:
    """Probability that fair coin tosses split at least as unevenly, either way; 1 without a toss."""
    tosses = ahead + behind
    extreme = sum(math.comb(tosses, heads) for heads in range(max(ahead, behind), tosses + 1))
    return min(1.0, 2 * extreme / 2**tosses)


def _fewest_seeds(pairs: int) -> int:
    seeds = 1
    while pairs * sign_test(seeds, 0) > _CHANCE:
        seeds += 1
    return seeds


def _unfinished(rows: Sequence[TrialRow]) -> tuple[str, ...]:
    failed = sum(row.state == "failed" and row.run_id is not None for row in rows)
    if not failed:
        return ()
    return (f"{failed} of {len(rows)} trials failed; why stands in the list of trials.",)
