"""`TrainConfig` accepts what can be trained and names the remedy for the rest."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.config import TrainConfig
from seg.errors import UserError


def test_defaults_are_the_seeds_setting() -> None:
    config = TrainConfig()
    assert (config.image_size, config.batch_size, config.filters, config.loss) == (256, 10, 64, "bce")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 100}, "image_size must be a multiple of 16 for depth 4, got 100; use 96 or 112"),
        ({"image_size": 5}, "image_size must be a multiple of 16 for depth 4, got 5; use 16"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"filters": 0}, "filters must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"depth": 11}, "depth must be at most 10, got 11"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**32}, "seed must be below 4294967296, got 4294967296"),
        ({"loss": "mse"}, "loss must be one of bce, dice, bce_dice, focal_tversky, batch_dice, got 'mse'"),
        ({"augmentation": "mixup"}, "augmentation must be one of none, flip, full, square, got 'mixup'"),
        ({"optimizer": "sgd"}, "optimizer must be one of adam, adamw, got 'sgd'"),
        ({"schedule": "step"}, "schedule must be one of constant, cosine, got 'step'"),
        ({"foreground_share": 1.5}, "foreground_share must be from 0 to 1, got 1.5"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, got 1.0"),
        ({"clip_norm": float("nan")}, "clip_norm must be a number of at least 0, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be a number of at least 0, got -0.1"),
        ({"warmup_epochs": 20}, "warmup_epochs must be fewer than the 20 epochs, got 20"),
        ({"cache": "ram"}, "cache must be one of memory, file, got 'ram'"),
        ({"devices": "gpu"}, "devices must be auto or cpu:N with N from 1 to 999, got 'gpu'"),
        ({"precision": "int8"}, "precision must be one of .*, got 'int8'"),
        ({"architecture": "vgg"}, "architecture must be one of unet, attention_unet, .*, got 'vgg'"),
        ({"encoder": "vgg"}, "encoder must be one of none, mobilenetv3small, .*, got 'vgg'"),
        ({"block": "dense"}, "block must be one of plain, residual, got 'dense'"),
        ({"normalization": "layer"}, "normalization must be one of batch, group, instance, none, got 'layer'"),
        ({"upsampling": "nearest"}, "upsampling must be one of transposed, resize, got 'nearest'"),
        ({"deep_supervision": "maybe"}, "deep_supervision must be one of no, yes, got 'maybe'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": float("nan")}, "dropout must be at least 0 and below 1, got nan"),
        (
            {"normalization": "instance", "image_size": 16},
            "normalization instance needs more than one pixel at depth 4, got image_size 16; use 32",
        ),
        ({"architecture": "deeplabv3plus", "depth": 2}, "depth must be 3, 4 or 5 for deeplabv3plus, got 2"),
        ({"architecture": "deeplabv3plus", "deep_supervision": "yes"}, "deep_supervision needs .*, got deeplabv3plus"),
        ({"depth": 1, "deep_supervision": "yes"}, "deep_supervision needs .*, got unet and depth 1"),
        (
            {"architecture": "attention_unet", "encoder": "resnet50"},
            "encoder must be none for attention_unet, got 'resnet50'; unet and deeplabv3plus take one",
        ),
        ({"encoder_weights": "imagenet"}, "encoder_weights must be none without an encoder, got 'imagenet'; choose "),
        ({"encoder": "resnet50", "depth": 6}, "depth must be at most 5 with an encoder, .*, got 6"),
        ({"encoder": "resnet50", "image_size": 16}, "image_size must be at least 32 with an encoder, got 16"),
        (
            {"encoder": "resnet50", "encoder_weights": "resnet50.npz"},
            "encoder_weights must be none, imagenet or a file that ends in .h5 or .hdf5, got 'resnet50.npz'",
        ),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be a positive number, got inf"),
    ],
)
def test_impossible_values_name_the_remedy(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**change)


def test_a_configuration_from_before_the_architectures_is_a_plain_unet() -> None:
    stored = {"image_size": 96, "batch_size": 10, "filters": 16, "depth": 4, "loss": "dice"}
    config = TrainConfig(**stored)
    assert (config.architecture, config.encoder, config.encoder_weights) == ("unet", "none", "none")
    assert (config.block, config.normalization, config.upsampling) == ("plain", "batch", "transposed")
    assert (config.dropout, config.deep_supervision) == (0.0, "no")


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3  # type: ignore[misc]


@given(depth=st.integers(1, 6), image_size=st.integers(1, 600))
def test_the_sizes_that_an_error_proposes_are_accepted(depth: int, image_size: int) -> None:
    try:
        TrainConfig(image_size=image_size, depth=depth)
    except UserError as error:
        proposed = str(error).rsplit("use ", 1)[1].rstrip(".").split(" or ")
        for size in proposed:
            assert TrainConfig(image_size=int(size), depth=depth).image_size == int(size)


@given(seed=st.integers(0, 2**31), learning_rate=st.floats(1e-9, 10))
def test_the_dictionary_makes_the_same_configuration(seed: int, learning_rate: float) -> None:
    config = TrainConfig(seed=seed, learning_rate=learning_rate)
    assert TrainConfig(**config.as_dict()) == config
