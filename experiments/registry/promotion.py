"""The gate: which version of a model is champion. `main` and `promote` use it alike.

A challenger becomes champion if the paired 95 % interval of its Dice minus the champion's, image by image on the same
test images, excludes a loss over the margin. So an equal model passes (the newer one is preferred), a model that is
worse by more than the margin does not, and neither does one of which the test images cannot say it. Drawing images
(groups, where the dataset has them) covers the choice of test images, not the choice of the training seed.
"""

import getpass
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from experiments.registry.image_scores import ImageScores
from experiments.registry.registry import ModelInfo, Registry
from seg.errors import UserError
from seg.statistics import Interval, bootstrap_mean

MARGIN = 0.01  # of Dice at the images' own size
FEWEST = 8
"""Test images, or groups of them, without which nothing is promoted over a champion: an interval of fewer draws is too
narrow to be believed."""
ROLLED_BACK = "rolled_back"  # tag of a version: when, by whom, to which version


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate says.

    Attributes:
        promoted: whether the challenger is champion from now on.
        reason: one line for people, with the numbers.
        difference: challenger minus champion with its interval; None where nothing was compared.
        forced: the alias moved against the gate.
    """

    promoted: bool
    reason: str
    difference: Interval | None = None
    forced: bool = False


def decide(challenger: ImageScores, champion: ImageScores, margin: float = MARGIN) -> Decision:
    """Compares two models on the same test images; a pure function.

    Args:
        challenger, champion: their scores.
        margin: the loss of mean Dice that is tolerable, in [0, 1].

    Raises:
        UserError: if the scores are of different images, or `margin` is out of range.
    """
    if not 0 <= margin <= 1:
        raise UserError(f"margin must lie between 0 and 1, got {margin}; use {MARGIN}.")
    ours, theirs = challenger.dice_own_size, champion.dice_own_size
    if challenger.test_key != champion.test_key or len(ours) != len(theirs):
        raise UserError(
            f"two models must be compared on the same test images, got {len(ours)} of key {challenger.test_key} and "
            f"{len(theirs)} of key {champion.test_key}; score both on the same data."
        )
    difference = bootstrap_mean(np.subtract(ours, theirs), groups=challenger.groups)
    units = len(set(challenger.groups)) if challenger.groups else len(ours)
    passed = units >= FEWEST and difference.low > -margin
    drawn = f"{len(ours)} test images"
    if challenger.groups:
        drawn += f" in {len(set(challenger.groups))} groups"
    numbers = (
        f"test Dice {np.mean(ours):.4f} against {np.mean(theirs):.4f}, difference {difference.mean:+.4f} "
        f"(95 %: {difference.low:+.4f} to {difference.high:+.4f}, {drawn})"
    )
    if units < FEWEST:
        verdict = f"which are too few to exclude a loss: at least {FEWEST} are needed"
    else:
        verdict = f"which {'excludes' if passed else 'does not exclude'} a loss over {margin:g}"
    return Decision(promoted=passed, reason=f"{numbers}, {verdict}", difference=difference)


def contend(
    registry: Registry,
    challenger: ModelInfo,
    scores_of: Callable[[ModelInfo], ImageScores],
    margin: float = MARGIN,
    force: bool = False,
    named: bool = False,
) -> Decision:
    """Decides between a version and the champion, moves the alias, and records both on the version.

    A version that was rolled back stays so: a person has said more of it than its scores can.

    Args:
        challenger: the version that would be champion.
        scores_of: a version's scores, on the challenger's test images; asked only where two are compared.
        force: move the alias whatever the comparison says; it is made and recorded all the same.
        named: a person means this very version, so that one that was rolled back is compared again.

    Raises:
        UserError: if the champion changed meanwhile; and what `scores_of` raises.
    """
    champion = registry.champion(challenger.name)
    if champion is not None and champion.version == challenger.version:
        return Decision(promoted=True, reason="the champion already")
    taken_back = registry.tags(challenger).get(ROLLED_BACK, "")
    if taken_back and not named:
        decision = Decision(
            promoted=False,
            reason=f"it was rolled back ({taken_back}); promote it by --model {challenger.uri}, or with --force yes",
        )
    elif champion is None:
        decision = Decision(promoted=True, reason="the first champion")
    elif champion.dice is None:  # not registered by this project: it may be no model that we can score
        kept = f"version {champion.version} stays champion: it has no scores of this project"
        decision = Decision(promoted=False, reason=kept)
    else:
        decision = decide(scores_of(challenger), scores_of(champion), margin)
        kept = f"version {champion.version} stays champion"
        reason = f"{f'the new champion over version {champion.version}' if decision.promoted else kept}: "
        decision = replace(decision, reason=reason + decision.reason)
    if force and not decision.promoted:
        decision = replace(decision, promoted=True, forced=True, reason=f"forced, although {decision.reason}")
    if decision.promoted:
        registry.make_champion(challenger, champion, _history(registry, champion, challenger))
        if taken_back:
            registry.forget(challenger, ROLLED_BACK)
    registry.note(challenger, _record(decision))
    return decision


def roll_back(registry: Registry, name: str) -> tuple[ModelInfo, ModelInfo]:
    """Puts the alias back on the version that was champion before; again, and it is one more back.

    Returns:
        The champion until now, and the champion from now on.

    Raises:
        UserError: if there is no champion, or none before it.
    """
    champion = registry.champion(name)
    if champion is None:
        raise UserError(f"rollback needs a champion, and {name} has none; promote a version first.")
    past = registry.past_champions(name)
    while past and past[-1] == champion.version:
        past.pop()
    if not past:
        raise UserError(
            f"rollback needs a champion before version {champion.version}, and there is none; promote a version by "
            "its number instead."
        )
    before = registry.find(f"models:/{name}/{past[-1]}")
    registry.make_champion(before, champion, past)
    registry.note(champion, {ROLLED_BACK: f"{_now()} by {_user()}, to version {before.version}"})
    return champion, before


def _history(registry: Registry, champion: ModelInfo | None, challenger: ModelInfo) -> list[str]:
    """The champions so far, this one behind them. The present one may have got its alias by hand."""
    if champion is None:
        return [challenger.version]
    past = registry.past_champions(challenger.name)
    return [*past, *([] if past[-1:] == [champion.version] else [champion.version]), challenger.version]


def _record(decision: Decision) -> dict[str, str]:
    state = "forced" if decision.forced else "promoted" if decision.promoted else "refused"
    return {"promotion": state, "promotion_reason": decision.reason, "promotion_decided": f"{_now()} by {_user()}"}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user needs no name
        return f"uid {os.getuid()}"
