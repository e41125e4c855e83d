"""The verdict says no more than the trials show."""

import pytest

from experiments.storage import TrialRow
from experiments.study_page.verdict import judge, sign_test
from seg.config import TrainConfig


def trials(**scores: list[float | None]) -> list[TrialRow]:
    """A grid of losses: val_dice by loss and seed; None failed."""
    rows: list[TrialRow] = []
    for loss, by_seed in scores.items():
        for seed, val_dice in enumerate(by_seed):
            rows.append(
                TrialRow(
                    number=len(rows),
                    state="failed" if val_dice is None else "finished",
                    config=TrainConfig(loss=loss, seed=seed),
                    val_dice=val_dice,
                    run_id="run",
                    reason="",
                    seconds=1.0,
                )
            )
    return rows


def test_no_trial_finished():
    found = judge(trials(bce=[None]), "grid")
    assert (found.decided, found.headline) == (False, "No trial finished: there is no answer yet.")
    assert judge([], "grid").headline == found.headline


def test_one_arm():
    found = judge(trials(bce=[0.5, 0.6], dice=[None]), "grid")
    assert found.headline == "One arm finished (bce): there is nothing to compare it with."
    assert found.reasons == ("1 of 3 trials failed; why stands in the list of trials.",)


def test_one_seed_decides_nothing_however_large_the_lead():
    found = judge(trials(bce=[0.1], dice=[0.9], bce_dice=[0.2]), "grid")
    assert not found.decided
    assert found.headline == "dice scored highest, but the comparison is not decided: one seed per arm."
    assert found.reasons[0].startswith("Its val_dice is 0.900; the next, bce_dice, has 0.200.")
    assert "with 6 trials every arm has two" in found.reasons[0]


def test_seeds_that_only_one_arm_has_do_not_count():
    assert "one seed per arm" in judge(trials(bce=[0.1], dice=[0.9, 0.9]), "grid").headline


def test_five_seeds_are_too_few_and_six_are_enough():
    # 2 · (1/2)^5 = 6.25 %, 2 · (1/2)^6 = 3.125 %.
    five = judge(trials(bce=[0.1] * 5, dice=[0.2] * 5), "grid")
    assert not five.decided
    assert five.headline == "dice scored highest, but 5 seeds per arm do not decide the comparison."
    assert "At least 6 seeds, all pointing the same way" in five.reasons[2]
    six = judge(trials(bce=[0.1] * 6, dice=[0.2] * 6), "grid")
    assert six.decided
    assert six.headline == "dice is best: ahead of bce on 6 of 6 seeds."
    assert "by +0.100 on average (+0.100 to +0.100)" in six.reasons[1]


def test_with_more_arms_more_seeds_are_needed():
    # Three pairs: 3 · 2 · (1/2)^6 = 9.4 %, 3 · 2 · (1/2)^7 = 4.7 %.
    six = judge(trials(bce=[0.1] * 6, dice=[0.2] * 6, bce_dice=[0.1] * 6), "grid")
    assert not six.decided
    assert "If all 3 arms were equal, two would part this clearly with a probability up to 9%." in six.reasons[2]
    assert "At least 7 seeds, all pointing the same way, would decide it." in six.reasons[2]
    assert judge(trials(bce=[0.1] * 7, dice=[0.2] * 7, bce_dice=[0.1] * 7), "grid").decided


def test_two_seeds_and_many_arms_say_nothing():
    found = judge(trials(bce=[0.1] * 2, dice=[0.2] * 2, bce_dice=[0.1] * 2), "grid")
    assert found.reasons[2].startswith("Equal arms part like this all the time. At least 7 seeds")


def test_a_higher_mean_that_one_seed_makes_does_not_decide():
    found = judge(trials(bce=[0.5] * 6, dice=[0.4, 0.4, 0.4, 0.4, 0.4, 1.6]), "grid")
    assert found.headline.startswith("dice scored highest, but 6 seeds")
    assert "ahead of that arm on 1 of 6" in found.reasons[1]


def test_a_search_compares_nothing():
    found = judge(trials(bce=[0.1] * 9, dice=[0.2] * 9), "tpe")
    assert not found.decided
    assert found.headline == "The search found dice; that it is better than its neighbours is not shown."


@pytest.mark.parametrize(
    ("ahead", "behind", "probability"),
    [(0, 0, 1.0), (1, 0, 1.0), (1, 1, 1.0), (3, 0, 0.25), (5, 1, 14 / 64), (1, 5, 14 / 64), (6, 0, 1 / 32)],
)
def test_sign_test(ahead, behind, probability):
    # Of 2^6 ways to toss six coins, 1 + 6 have at least five heads, and as many at least five tails: 14 of 64.
    assert sign_test(ahead, behind) == pytest.approx(probability)
