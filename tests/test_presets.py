"""A preset decides what was not given, and nothing else."""

import pytest

from experiments.command_line import presets
from experiments.main import GIVEN, build_parser
from experiments.study import search_space
from seg.config import TrainConfig


def test_quick_is_the_default() -> None:
    values = presets.apply(build_parser().parse_args([]), GIVEN)
    assert (values.image_size, values.filters, values.augmentation) == (96, "8,16", "flip")


def test_seed_brings_the_seeds_setting_back() -> None:
    space = search_space(presets.apply(build_parser().parse_args(["--preset", "seed"]), GIVEN))
    assert space.base == TrainConfig()
    assert [(arm.loss, arm.filters) for arm in space.arms()] == [("bce", 64), ("dice", 64)]


def test_what_a_preset_does_not_decide_has_its_default() -> None:
    recipe = search_space(presets.apply(build_parser().parse_args(["--preset", "recipe"]), GIVEN)).base
    assert (recipe.optimizer, recipe.ema, recipe.depth, recipe.normalization) == ("adamw", 0.995, 5, "batch")
    quick = search_space(presets.apply(build_parser().parse_args([]), GIVEN)).base
    assert (quick.optimizer, quick.ema, quick.depth) == ("adam", 0.0, 4)


def test_help_shows_what_each_preset_decides(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "(quick: 96, seed: 256, recipe: 128)" in shown
    assert "preset|adam|adamw" in shown


def test_what_is_given_wins() -> None:
    values = presets.apply(
        build_parser().parse_args(["--preset", "seed", "--image_size", "64", "--epochs", "3"]), GIVEN
    )
    assert (values.image_size, values.epochs, values.filters) == (64, 3, "64")


def test_a_value_that_is_no_number_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["--image_size", "big"])
    assert ended.value.code == 2
    assert "argument --image_size/--image-size: invalid int value: 'big'" in capsys.readouterr().err


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_every_preset_can_be_trained(preset: str) -> None:
    search_space(presets.apply(build_parser().parse_args(["--preset", preset]), GIVEN))
