import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.search import SearchSpace, fingerprint, make_pruner, make_sampler, parse_filters, parse_losses, suggest
from seg.config import TrainConfig
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
            "loss must be one or more of bce, dice, bce_dice, separated by commas, got 'focal'",
        ),
        (parse_losses, "bce,,dice", "loss must be values separated by commas, got 'bce,,dice'"),
        (parse_losses, "bce,bce", "loss must name each value once, got 'bce,bce'"),
        (parse_filters, "8,wide", "filters must be integers separated by commas, got '8,wide'; for example 8,16"),
        (parse_filters, "", "filters must be values separated by commas, got ''"),
        (parse_filters, "8,0", "filters must be at least 1, got 0"),
        (parse_filters, "8,08", "filters must name each value once, got '8,08'"),
    ],
)
def test_bad_lists_are_user_errors(parse, text, message):
    with pytest.raises(UserError, match=message):
        parse(text)


@given(st.text(max_size=20))
def test_any_text_is_a_list_or_a_user_error(text):
    for parse in (parse_losses, parse_filters):
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
    assert {config.augmentation for config in configs} == {"none", "flip", "full"}
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
