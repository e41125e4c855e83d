"""What a study's trials allow to say about its arms, and how sure that is. Words only for what the numbers carry."""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.reports.compared import Compared
from experiments.storage.stored_study import TrialRow
from experiments.studies.comparison import arms
from seg.comparison import Difference


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


def judge(rows: Sequence[TrialRow], sampler: str, found: Compared | None = None, missing: str = "") -> Verdict:
    """Says what the comparison of the arms says.

    Args:
        rows: the trials that speak for their arms.
        sampler: grid or tpe.
        found: their comparison; None where there is none.
        missing: why.
    """
    scored = [arm for arm in arms(rows) if arm.mean is not None]
    if not scored:
        return Verdict(decided=False, headline="No trial finished: there is no answer yet.", reasons=())
    best, unfinished = scored[0], _unfinished(rows)
    if len(scored) == 1:
        headline = f"One arm finished ({best.name}): there is nothing to compare it with."
        return Verdict(decided=False, headline=headline, reasons=unfinished)
    if sampler == "tpe":
        return Verdict(
            decided=False,
            headline=f"The search found {best.name}; that it is better than its neighbours is not shown.",
            reasons=(
                "A search spends its trials where scores were good and stops the others early, so its arms had "
                "unequal chances. To compare two of them, train both on a grid with the same seeds.",
                *unfinished,
            ),
        )
    if found is None:
        headline = f"{best.name} scored highest, but the arms cannot be compared image by image."
        return Verdict(decided=False, headline=headline, reasons=(f"Why not: {missing}", *unfinished))
    return _verdict(found, unfinished)


def _verdict(found: Compared, unfinished: tuple[str, ...]) -> Verdict:
    best = found.arms[found.result.best].name
    rivals = found.result.rivals
    if len(found.seeds) < 2:
        headline = f"{best} scored highest, but the comparison is not decided: one seed per arm."
        told = (
            "The same arm trained with another seed scores differently too, and one training per arm cannot tell by "
            "how much. Compare with several seeds: compare trains three per arm."
        )
        return Verdict(decided=False, headline=headline, reasons=(_margin(found), told, *unfinished))
    if not rivals:
        nearest = _nearest(found)
        headline = f"{best} is best: its Dice is {nearest.mean:.3f} higher than that of {_second(found, nearest)}."
    else:
        nearest = rivals[0]
        others = f" and {len(rivals) - 1} more" if len(rivals) > 1 else ""
        headline = (
            f"Not decided: {best} scored highest, but is not told from {_second(found, nearest)}{others}; "
            f"{_needed(rivals)}."
        )
    reasons = (_margin(found), _evidence(found, nearest), *unfinished)
    return Verdict(decided=found.result.decided, headline=headline, reasons=reasons)


def _nearest(found: Compared) -> Difference:
    return min(
        (pair for pair in found.result.differences if pair.first == found.result.best), key=lambda pair: pair.mean
    )


def _second(found: Compared, pair: Difference) -> str:
    return found.arms[pair.second].name


def _margin(found: Compared) -> str:
    pair = _nearest(found)
    best, second = (found.result.arms[arm].images.mean for arm in (pair.first, pair.second))
    return (
        f"Its mean Dice on the {found.result.images:,} validation images is {best:.3f}; the next, "
        f"{_second(found, pair)}, has {second:.3f}."
    )


def _evidence(found: Compared, pair: Difference) -> str:
    assert pair.interval is not None
    pairs = len(found.result.differences)
    among = "" if pairs == 1 else f", the {pairs} pairs of arms taken into account"
    return (
        f"On the same {len(found.seeds)} seeds and images it is ahead of {_second(found, pair)} by {pair.mean:+.3f} on "
        f"average, with a 95 % interval from {pair.interval.low:+.3f} to {pair.interval.high:+.3f} for other images "
        f"and other seeds. Equal arms would part this far with a probability of {_percent(pair.chance_of_all)}{among}. "
        f"It scores higher on {pair.superiority:.0%} of images, ties counted half."
    )


def _percent(chance: float) -> str:
    return "less than 0.1%" if chance < 0.001 else f"{chance:.1%}" if chance < 0.1 else f"{chance:.0%}"


def _needed(rivals: Sequence[Difference]) -> str:
    """What would tell the best arm from all of its rivals, if the differences are as large as they look."""
    images, seeds = (_most([getattr(pair, name) for pair in rivals]) for name in ("more_images", "more_seeds"))
    if any(pair.mean == 0 for pair in rivals):
        return "they score the same, which no number of images or seeds would change"
    if images is None and seeds is None:
        return "neither more images nor more seeds alone would be enough, both would be needed"
    if images is None:
        return f"about {_count(seeds, 'seed')} would be needed, more images alone would not do"
    if seeds is None:
        return f"about {_count(images, 'validation image')} would be needed, more seeds alone would not do"
    return f"about {_count(images, 'validation image')} or {_count(seeds, 'seed')} would be needed"


def _most(numbers: Sequence[int | None]) -> int | None:
    """The largest; None where one of them is."""
    known = [number for number in numbers if number is not None]
    return max(known) if len(known) == len(numbers) else None


def _count(number: int | None, noun: str) -> str:
    return f"{number:,} more {noun}{'' if number == 1 else 's'}"


def _unfinished(rows: Sequence[TrialRow]) -> tuple[str, ...]:
    failed = sum(row.state == "failed" and row.run_id is not None for row in rows)
    if not failed:
        return ()
    return (f"{failed} of {len(rows)} trials failed; why stands in the list of trials.",)
