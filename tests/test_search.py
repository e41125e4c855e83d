from dataclasses import replace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.studies.search import (
    SearchSpace,
    fingerprint,
    make_pruner,
    make_sampler,
    parse_arms,
    parse_filters,
    parse_learning_rates,
    parse_losses,
    suggest,
)
from seg.config import AUGMENTATIONS, TrainConfig
from seg.errors import UserError


def make_space(sampler="grid", losses=("bce", "dice"), filters=(8, 16), **fields) -> SearchSpace:
    base = TrainConfig(**{"image_size": 64, "depth": 3} | fields)
    return SearchSpace(base=base, losses=losses, filters=filters, sampler=sampler)


def test_lists():
    assert parse_losses("bce, dice") == ("bce", "dice")
    assert parse_filters("8,16 ") == (8, 16)
    assert parse_filters("64") == (64,)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (
            parse_losses,
            "bce,focal",
            "loss must be one or more of bce, dice, bce_dice, focal_tversky, batch_dice, separated by commas, "
            "got 'focal'",
        ),
        (parse_losses, "bce,,dice", "loss must be values separated by commas, got 'bce,,dice'"),
        (parse_losses, "bce,bce", "loss must name each value once, got 'bce,bce'"),
        (parse_filters, "8,wide", "filters must be integers separated by commas, got '8,wide'; for example 8,16"),
        (parse_filters, "", "filters must be values separated by commas, got ''"),
        (parse_filters, "8,0", "filters must be at least 1, got 0"),
        (parse_filters, "8,08", "filters must name each value once, got '8,08'"),
        (parse_learning_rates, "0.1,fast", "learning_rate must be numbers separated by commas, got '0.1,fast'"),
        (parse_learning_rates, "0.1,-1", "learning_rate must be positive numbers, got '0.1,-1'"),
        (parse_learning_rates, "inf", "learning_rate must be positive numbers, got 'inf'"),
        (parse_learning_rates, "0.1,1e-1", "learning_rate must name each value once, got '0.1,1e-1'"),
        (parse_arms, "depth", "arms must be NAME=VALUE,VALUE;NAME=VALUE,…, got 'depth'"),
        (parse_arms, "depht=3,4", "arms must name options of training, got 'depht'; choose from augmentation"),
        (parse_arms, "epochs=3,4", "arms must not name epochs: arms have equal budgets; choose from"),
        (parse_arms, "loss=bce,dice", "arms must not name loss: it has an option of its own"),
        (parse_arms, "depth=3;depth=4", "arms must name each option once, got depth twice"),
        (parse_arms, "depth=3,three", "depth must be values of type int, got 'three'"),
        (parse_arms, "depth=3,03", "depth must name each value once, got '3,03'"),
        (parse_arms, "depth=", "depth must be values separated by commas, got ''"),
    ],
)
def test_bad_lists_are_user_errors(parse, text, message):
    with pytest.raises(UserError, match=message):
        parse(text)


@given(st.text(max_size=20))
def test_any_text_is_a_list_or_a_user_error(text):
    for parse in (parse_losses, parse_filters, parse_learning_rates):
        try:
            values = parse(text)
        except UserError:
            continue
        assert len(values) >= 1


def test_grid_pairs_seeds():
    grid = make_space(seed=7).grid(6)
    assert [(config.loss, config.filters, config.seed) for config in grid] == [
        ("bce", 8, 7),
        ("bce", 16, 7),
        ("dice", 8, 7),
        ("dice", 16, 7),
        ("bce", 8, 8),
        ("bce", 16, 8),
    ]


def test_arms_of_further_options():
    assert parse_arms("") == {}
    assert parse_arms("depth = 2,3; augmentation=none,full ;") == {"depth": (2, 3), "augmentation": ("none", "full")}
    base = TrainConfig(image_size=64, depth=2)
    space = SearchSpace(base=base, losses=("bce",), filters=(8, 16), others={"depth": (2, 3)})
    assert [(arm.filters, arm.depth) for arm in space.arms()] == [(8, 2), (8, 3), (16, 2), (16, 3)]
    assert space.as_dict()["depth"] == [2, 3]
    assert space.tuning() == []
    with pytest.raises(UserError, match="image_size must be a multiple of 128 for depth 7"):
        SearchSpace(base=base, losses=("bce",), filters=(8,), others={"depth": (2, 7)})


def test_one_at_a_time_changes_the_base_in_one_value():
    base = TrainConfig(image_size=64, depth=2)
    others = {"ema": (0.9, 0.0), "augmentation": ("square", "none", "flip")}
    space = SearchSpace(base=base, losses=("dice", "bce"), filters=(8,), others=others, design="one_at_a_time")
    assert [(arm.loss, arm.ema, arm.augmentation) for arm in space.arms()] == [
        ("dice", 0.9, "square"),
        ("bce", 0.9, "square"),
        ("dice", 0.0, "square"),
        ("dice", 0.9, "none"),
        ("dice", 0.9, "flip"),
    ]
    assert space.as_dict()["design"] == "one_at_a_time"
    assert "design" not in replace(space, design="factorial").as_dict()  # studies from before there was a choice go on
    with pytest.raises(UserError, match="design must be one of factorial, one_at_a_time, got 'half'"):
        replace(space, design="half")


@given(st.text(max_size=30) | st.from_regex(r"[a-z_]{1,13}=[^;]{0,8}(;[a-z_]{1,8}=[^;]{0,8})?", fullmatch=True))
def test_any_text_names_arms_or_is_a_user_error(text):
    try:
        found = parse_arms(text)
    except UserError:
        return
    assert all(values for values in found.values())


def test_every_arm_tries_every_learning_rate_with_the_first_seed():
    base = TrainConfig(image_size=64, depth=2, seed=5, learning_rate=0.1)
    space = SearchSpace(base=base, losses=("bce", "dice"), filters=(8,), learning_rates=(0.1, 0.01))
    assert [(arm.loss, arm.learning_rate, arm.seed) for arm in space.tuning()] == [
        ("bce", 0.1, 5),
        ("bce", 0.01, 5),
        ("dice", 0.1, 5),
        ("dice", 0.01, 5),
    ]
    assert space.as_dict()["learning_rate"] == [0.1, 0.01]


def test_unknown_sampler():
    with pytest.raises(UserError, match="sampler must be one of grid, tpe, got 'random'"):
        make_space("random")


def test_fingerprint_ignores_what_does_not_change_the_model():
    config = TrainConfig()
    assert fingerprint(config) == fingerprint(TrainConfig(cache="file", devices="cpu:2"))
    assert fingerprint(config) != fingerprint(TrainConfig(seed=1))


@pytest.mark.parametrize(
    ("image_size", "depth", "depths"),
    [
        (64, 3, (2, 4)),  # 64 / 16 = 4
        (24, 3, (2, 3)),  # 24 / 16 is no whole number
        (64, 1, (1, 2)),
        (1024, 10, (9, 10)),  # the deepest that TrainConfig takes
    ],
)
def test_depths_divide_the_image(image_size, depth, depths):
    assert make_space("tpe", image_size=image_size, depth=depth).depths() == depths


def test_depths_suit_the_architecture():
    assert make_space("tpe", architecture="deeplabv3plus", image_size=64, depth=3).depths() == (3, 4)
    assert make_space("tpe", encoder="resnet50", image_size=64, depth=5).depths() == (4, 5)
    assert make_space("tpe", deep_supervision="yes", image_size=64, depth=2).depths() == (2, 3)


def test_tpe_proposes_valid_configurations_within_the_space():
    space = make_space("tpe", learning_rate=1e-3)
    study = optuna.create_study(sampler=make_sampler(space, 0), pruner=make_pruner(space))
    configs = [suggest(study.ask(), space) for _ in range(30)]
    assert {config.loss for config in configs} == {"bce", "dice"}
    assert {config.filters for config in configs} == {8, 16}
    assert {config.depth for config in configs} == {2, 3, 4}
    assert {config.augmentation for config in configs} == set(AUGMENTATIONS)
    assert all(1e-4 <= config.learning_rate <= 1e-2 for config in configs)


def test_tpe_is_seeded_and_goes_on_with_other_proposals():
    space = make_space("tpe")

    def first(trials_so_far: int) -> TrainConfig:
        return suggest(optuna.create_study(sampler=make_sampler(space, trials_so_far)).ask(), space)

    assert first(0) == first(0)
    assert first(0) != first(1)


def test_only_tpe_prunes():
    assert isinstance(make_pruner(make_space("grid")), optuna.pruners.NopPruner)
    assert isinstance(make_pruner(make_space("tpe")), optuna.pruners.MedianPruner)
