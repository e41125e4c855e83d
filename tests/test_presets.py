"""A preset decides what was not given, and nothing else."""

import pytest

from experiments import presets
from experiments.main import build_parser
from experiments.study import search_space
from seg.config import TrainConfig


def test_quick_is_the_default() -> None:
    values = presets.apply(build_parser().parse_args([]))
    assert (values.image_size, values.filters, values.augmentation) == (96, "8,16", "flip")


def test_seed_brings_the_seeds_setting_back() -> None:
    space = search_space(presets.apply(build_parser().parse_args(["--preset", "seed"])))
    assert space.base == TrainConfig()
    assert [(arm.loss, arm.filters) for arm in space.arms()] == [("bce", 64), ("dice", 64)]


def test_what_is_given_wins() -> None:
    values = presets.apply(build_parser().parse_args(["--preset", "seed", "--image_size", "64", "--epochs", "3"]))
    assert (values.image_size, values.epochs, values.filters) == (64, 3, "64")


def test_a_value_that_is_no_number_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["--image_size", "big"])
    assert ended.value.code == 2
    assert "argument --image_size/--image-size: invalid int value: 'big'" in capsys.readouterr().err


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_every_preset_can_be_trained(preset: str) -> None:
    search_space(presets.apply(build_parser().parse_args(["--preset", preset])))
