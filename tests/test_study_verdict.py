"""The verdict says no more than the trials show."""

import numpy as np

from experiments.reports.compared import Compared
from experiments.storage.stored_study import TrialRow
from experiments.studies.comparison import arms, shared_seeds
from experiments.study_page.verdict import Verdict, judge
from seg.comparison import compare_arms
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


def verdict(images: int, image: float, noise: float, **scores: list[float | None]) -> Verdict:
    """Of arms whose trials have these means over the images.

    Args:
        images: of validation.
        image, noise: standard deviations of the differences, alike for all seeds and not.
    """
    rows = trials(**scores)
    found = [arm for arm in arms(rows) if arm.val_dice]
    seeds = shared_seeds(found)
    generator = np.random.default_rng(0)
    dice = np.array([[[arm.by_seed[seed]] * images for seed in seeds] for arm in found])
    for deviation, shape in ((image, (len(found), 1, images)), (noise, dice.shape)):
        spread = generator.normal(0, deviation, shape)
        dice = dice + spread - spread.mean(axis=(1, 2), keepdims=True)
    compared = Compared(
        arms=tuple(found), seeds=seeds, result=compare_arms(dice), empty=0, by_size=(), false_positives=()
    )
    return judge(rows, "grid", compared)


def test_no_trial_finished():
    found = judge(trials(bce=[None]), "grid")
    assert (found.decided, found.headline) == (False, "No trial finished: there is no answer yet.")
    assert judge([], "grid").headline == found.headline


def test_one_arm():
    found = judge(trials(bce=[0.5, 0.6], dice=[None]), "grid")
    assert found.headline == "One arm finished (bce): there is nothing to compare it with."
    assert found.reasons == ("1 of 3 trials failed; why stands in the list of trials.",)


def test_one_seed_decides_nothing_however_large_the_lead():
    found = verdict(100, 0.01, 0.01, bce=[0.1], dice=[0.9], bce_dice=[0.2])
    assert not found.decided
    assert found.headline == "dice scored highest, but the comparison is not decided: one seed per arm."
    assert found.reasons[0] == "Its mean Dice on the 100 validation images is 0.900; the next, bce_dice, has 0.200."
    assert "compare trains three per arm" in found.reasons[1]


def test_seeds_that_only_one_arm_has_do_not_count():
    assert "one seed per arm" in verdict(100, 0.01, 0.01, bce=[0.1], dice=[0.9, 0.9]).headline


def test_a_clear_lead_is_decided():
    found = verdict(200, 0.05, 0.05, bce=[0.50, 0.51, 0.50], dice=[0.60, 0.61, 0.60])
    assert found.decided
    assert found.headline == "dice is best: its Dice is 0.100 higher than that of bce."
    assert "On the same 3 seeds and images it is ahead of bce by +0.100 on average" in found.reasons[1]
    assert "with a probability of less than 0.1%. " in found.reasons[1]


def test_with_more_arms_the_probability_is_of_all_pairs():
    found = verdict(200, 0.05, 0.05, bce=[0.5] * 3, dice=[0.6] * 3, bce_dice=[0.4] * 3)
    assert found.decided
    assert "the 3 pairs of arms taken into account" in found.reasons[1]


def test_few_images_ask_for_more_images():
    found = verdict(30, 0.2, 0.01, bce=[0.50, 0.50, 0.50], dice=[0.52, 0.52, 0.52])
    assert not found.decided
    assert found.headline.startswith("Not decided: dice scored highest, but is not told from bce; about ")
    assert found.headline.endswith(" more validation images would be needed, more seeds alone would not do.")


def test_seeds_that_differ_ask_for_more_seeds():
    found = verdict(2000, 0.01, 0.01, bce=[0.50, 0.56, 0.47], dice=[0.53, 0.52, 0.54])
    assert not found.decided
    assert found.headline.endswith(" more seeds would be needed, more images alone would not do.")


def test_both_would_do():
    found = verdict(200, 0.03, 0.3, bce=[0.5, 0.5, 0.5], dice=[0.515, 0.515, 0.515])
    assert not found.decided
    assert " more validation images or " in found.headline


def test_equal_scores_need_nothing():
    found = verdict(20, 0.0, 0.0, bce=[0.5, 0.5], dice=[0.5, 0.5])
    assert found.headline.endswith("they score the same, which no number of images or seeds would change.")


def test_several_rivals_are_counted():
    found = verdict(20, 0.3, 0.1, bce=[0.5] * 2, dice=[0.51] * 2, bce_dice=[0.49] * 2)
    assert "is not told from bce and 1 more; " in found.headline


def test_what_cannot_be_compared_says_why():
    found = judge(trials(bce=[0.1] * 3, dice=[0.2] * 3), "grid", None, "the dataset is gone.")
    assert found.headline == "dice scored highest, but the arms cannot be compared image by image."
    assert found.reasons == ("Why not: the dataset is gone.",)


def test_a_search_compares_nothing():
    found = judge(trials(bce=[0.1] * 9, dice=[0.2] * 9), "tpe")
    assert not found.decided
    assert found.headline == "The search found dice; that it is better than its neighbours is not shown."
