"""The one-standard-error rule, on cases worked out by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.jobs.one_job import JobFailed
from experiments.jobs.split_predictions import SplitPredictions, predictions_file
from experiments.storage.stored_study import Selection, TrialRow
from experiments.studies.finish import check_select, choose
from experiments.studies.selection import RULES, Candidate, highest, smallest_within
from experiments.studies.study_result import StudyResult
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError
from seg.training.result import ModelCost
from tests.tiny import write_tiny

BEST, SMALLEST = RULES


def row(number: int, val_dice: float, multiply_adds: int | None, parameters: int = 10) -> TrialRow:
    cost = None
    if multiply_adds is not None:
        cost = ModelCost(
            parameters=parameters, multiply_adds=multiply_adds, latency_ms=float(10 - number), images_per_second=1.0
        )
    return TrialRow(
        number=number,
        state="finished",
        config=TrainConfig(filters=8 + number),
        val_dice=val_dice,
        run_id=f"run-{number}",
        reason="",
        seconds=1.0,
        cost=cost,
    )


def chosen(rows: list[TrialRow], best: int, error: float) -> Selection:
    candidates = [Candidate(trial=row, mean=row.val_dice or 0.0, seeds=1) for row in rows]
    return smallest_within(candidates[best], candidates, error)


class TestSmallestWithin:
    def test_the_smallest_of_those_that_are_as_good(self) -> None:
        # From 0.8 - 0.0625 on: trials 1 and 2; trial 0 is smaller, and worse by more than the error.
        rows = [row(0, 0.7, 1_000_000), row(1, 0.75, 2_340_000), row(2, 0.8, 40_000_000)]
        found = chosen(rows, 2, 0.0625)
        assert (found.trial, found.rule, found.best, found.standard_error) == (1, SMALLEST, 2, 0.0625)
        assert found.least == pytest.approx(0.7375)
        assert found.because == (
            "of the 2 trials within one standard error (0.062) of trial 2, the best (0.800), trial 1 (0.750) has the "
            "fewest multiply-adds, 2.34 M instead of 40 M"
        )

    def test_one_standard_error_below_is_within(self) -> None:
        assert chosen([row(0, 0.5, 1), row(1, 0.75, 2)], 1, 0.25).trial == 0

    def test_the_best_where_it_is_the_smallest(self) -> None:
        found = chosen([row(0, 0.8, 5), row(1, 0.79, 7)], 0, 0.1)
        assert found.trial == 0
        assert found.because == (
            "no trial within one standard error (0.100) of trial 0, the best (0.800), has fewer multiply-adds"
        )

    def test_without_error_only_equals_of_the_best(self) -> None:
        assert chosen([row(0, 0.8, 5), row(1, 0.799, 1)], 0, 0.0).trial == 0
        assert chosen([row(0, 0.8, 5), row(1, 0.8, 1)], 0, 0.0).trial == 1

    def test_of_equal_multiply_adds_fewer_parameters(self) -> None:
        assert chosen([row(0, 0.8, 5, 9), row(1, 0.79, 5, 8), row(2, 0.78, 5, 9)], 0, 0.1).trial == 1

    def test_of_equal_sizes_the_higher_dice_and_then_the_earlier(self) -> None:
        assert chosen([row(0, 0.79, 5), row(1, 0.8, 5), row(2, 0.78, 5)], 1, 0.1).trial == 1
        found = chosen([row(0, 0.79, 5), row(1, 0.79, 5), row(2, 0.8, 6)], 2, 0.1)
        assert found.trial == 0

    def test_fewer_parameters_are_no_fewer_multiply_adds(self) -> None:
        assert chosen([row(0, 0.8, 5, 9), row(1, 0.79, 5, 8)], 0, 0.1).because.endswith("has the fewest multiply-adds")

    def test_of_several_seeds_it_is_the_mean(self) -> None:
        small, large = (
            Candidate(trial=row(0, 0.9, 1_000_000), mean=0.7, seeds=3),
            Candidate(trial=row(1, 0.85, 2_000_000), mean=0.8, seeds=3),
        )
        assert smallest_within(large, [large, small], 0.09).trial == 1  # its best trial scores higher than any
        assert smallest_within(large, [large, small], 0.09).because == (
            "no arm within one standard error (0.090) of that of trial 1, the best with a mean of 0.800 over 3 seeds, "
            "has fewer multiply-adds"
        )
        found = smallest_within(large, [large, small], 0.125)
        assert (found.trial, found.best) == (0, 1)
        assert found.because == (
            "of the 2 arms within one standard error (0.125) of that of trial 1, the best with a mean of 0.800 over 3 "
            "seeds, that of trial 0 (0.700) has the fewest multiply-adds, 1 M instead of 2 M"
        )

    def test_trials_of_older_versions_are_passed_over(self) -> None:
        assert chosen([row(0, 0.8, 5), row(1, 0.8, None)], 0, 0.1).trial == 0

    def test_a_best_trial_of_an_older_version(self) -> None:
        with pytest.raises(UserError, match="trial 0, the best, must have a known cost, .*; use select=best"):
            chosen([row(0, 0.8, None), row(1, 0.79, 5)], 0, 0.1)


def test_the_best() -> None:
    because = "trial 3 has the highest validation Dice (0.801) of the best arm"
    assert highest(row(3, 0.8012, 5)) == Selection(trial=3, rule=BEST, best=3, standard_error=None, because=because)


class TestChoose:
    """From a study's files."""

    @pytest.fixture
    def manifest(self, tmp_path: Path) -> Manifest:
        return write_tiny(tmp_path / "tiny", val=4)

    @pytest.fixture
    def result(self, tmp_path: Path, manifest: Manifest) -> StudyResult:
        """The best trial's images have the Dice 1, 0, 1 and 0: a standard deviation of √(1/3), an error of √(1/12)."""
        rows = (row(0, 0.2, 1), row(1, 0.3, 2), row(2, 0.5, 3))
        result = StudyResult(study="unet", run_id="parent", workspace=tmp_path, rows=rows, ran=3)
        self.predict(result.folder(rows[2]), manifest, [1, 0, 1, 0])
        return result

    def predict(self, folder: Path, manifest: Manifest, dice: list[float]) -> None:
        folder.mkdir(parents=True)
        SplitPredictions(
            packed=np.zeros((4, 32), np.uint8),
            dice=np.array(dice, np.float32),
            image_size=16,
            dataset_key=manifest.key,
        ).save(predictions_file(folder, "val"))

    def test_best(self, result: StudyResult, manifest: Manifest) -> None:
        assert choose(BEST, result, manifest).trial == 2

    def test_smallest(self, result: StudyResult, manifest: Manifest) -> None:
        found = choose(SMALLEST, result, manifest)
        assert found.standard_error == pytest.approx((1 / 12) ** 0.5)  # 0.289: from 0.211 on
        assert found.trial == 1

    def test_predictions_that_are_gone(self, result: StudyResult, manifest: Manifest) -> None:
        predictions_file(result.folder(result.rows[2]), "val").unlink()
        with pytest.raises(UserError, match="val_predictions.npz must be there, and is not"):
            choose(SMALLEST, result, manifest)

    def test_a_small_arm_with_one_lucky_seed(self, tmp_path: Path, manifest: Manifest) -> None:
        """Both seeds of the best arm have the Dice 1, 0.2, 1, 0.2: MS(images) = 2 · 0.64 / 3, √(MS / 8) = 0.231.

        So 0.369 is as good, which the smallest arm reaches with one seed and not on average.
        """
        scores = {8: (0.5, 0.1), 9: (0.35, 0.45), 10: (0.6, 0.6)}  # of seeds 0 and 1, by filters
        rows = [
            replace(row(3 * seed + place, dice[seed], filters), config=TrainConfig(filters=filters, seed=seed))
            for seed in (0, 1)
            for place, (filters, dice) in enumerate(scores.items())
        ]
        result = StudyResult(study="unet", run_id="parent", workspace=tmp_path, rows=tuple(rows), ran=6)
        for trial in (rows[2], rows[5]):
            self.predict(result.folder(trial), manifest, [1, 0.2, 1, 0.2])
        found = choose(SMALLEST, result, manifest)
        assert found.standard_error == pytest.approx((2 * 0.64 / 3 / 8) ** 0.5)
        assert (found.trial, found.best) == (4, 2)  # the middle arm, and of its trials the better one
        assert found.least == pytest.approx(0.6 - (2 * 0.64 / 3 / 8) ** 0.5)

    @pytest.mark.parametrize("rule", RULES)
    def test_nothing_finished(self, rule: str, result: StudyResult, manifest: Manifest) -> None:
        empty = StudyResult(study="unet", run_id="parent", workspace=result.workspace, rows=(), ran=0)
        with pytest.raises(JobFailed, match="no finished trial"):
            choose(rule, empty, manifest)


def test_one_validation_image_is_refused_before_training(tmp_path: Path) -> None:
    one = write_tiny(tmp_path / "one", val=1)
    with pytest.raises(UserError, match="select=smallest-within-1se takes validation images of two groups .*, got 1"):
        check_select(SMALLEST, one)
    check_select(BEST, one)
    check_select(SMALLEST, write_tiny(tmp_path / "two", val=2))
