"""What `preset` decides: a study for two CPU cores, the setting with which the project began, or the best recipe."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.command_line.options import OPTIONS, PRESET, Option

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"image_size": 96, "augmentation": "flip", "filters": "8,16", "epochs": 8},
    "seed": {"image_size": 256, "augmentation": "none", "filters": "64", "epochs": 20},
    # docs/results.md shows what each part is worth.
    "recipe": {
        "image_size": 128,
        "augmentation": "square",
        "batch_size": 16,
        "filters": "16",
        "depth": 5,
        "loss": "bce_dice",
        "optimizer": "adamw",
        "learning_rate": 0.002,
        "schedule": "cosine",
        "warmup_epochs": 3,
        "weight_decay": 0.05,
        "clip_norm": 1.0,
        "ema": 0.995,
        "epochs": 80,
        "patience": 0,
        "precision": "auto",
        "tta": "square",
    },
}
DECIDED = tuple(dict.fromkeys(name for values in PRESETS.values() for name in values))
"""The options that a preset decides; where it says nothing of one, that has its default."""


def options(given: Mapping[str, Option]) -> dict[str, Option]:
    """The options that are left to the preset unless they are given.

    Args:
        given: those that differ here from `OPTIONS`.
    """
    return {name: _left_to_the_preset(name, given.get(name, OPTIONS[name])) for name in DECIDED}


def apply(values: argparse.Namespace, given: Mapping[str, Option]) -> argparse.Namespace:
    """The parsed options with the preset's values where none was given."""
    decided = {name: _value(values.preset, name, given.get(name, OPTIONS[name])) for name in DECIDED}
    return argparse.Namespace(
        **{
            name: decided[name] if name in decided and value == PRESET else value
            for name, value in vars(values).items()
        }
    )


def _value(preset: str, name: str, option: Option) -> Any:
    return PRESETS[preset].get(name, option.default)


def _left_to_the_preset(name: str, option: Option) -> Option:
    shown = ", ".join(f"{preset}: {_value(preset, name, option)}" for preset in PRESETS)

    def parse(text: str) -> Any:
        return text if text == PRESET else option.type(text)

    parse.__name__ = option.type.__name__
    choices = None if option.choices is None else (PRESET, *option.choices)
    return dataclasses.replace(option, type=parse, default=PRESET, choices=choices, help=f"{option.help} ({shown})")
