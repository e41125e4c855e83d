"""What `preset` decides: a study small enough for two CPU cores, or the setting with which the project began."""

import argparse
import dataclasses
from typing import Any

from experiments.options import OPTIONS, PRESET, Option

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"image_size": 96, "augmentation": "flip", "filters": "8,16", "epochs": 8},
    "seed": {"image_size": 256, "augmentation": "none", "filters": "64", "epochs": 20},
}


def option(name: str, kind: type = int) -> Option:
    """The option `name`, left to the preset unless it is given."""
    shown = ", ".join(f"{preset}: {values[name]}" for preset, values in PRESETS.items())

    def parse(text: str) -> Any:
        return text if text == PRESET else kind(text)

    parse.__name__ = kind.__name__
    return dataclasses.replace(
        OPTIONS[name], type=parse, default=PRESET, choices=None, help=f"{OPTIONS[name].help} ({shown})"
    )


def apply(values: argparse.Namespace) -> argparse.Namespace:
    """The parsed options with the preset's values where none was given."""
    return argparse.Namespace(
        **{
            name: PRESETS[values.preset][name] if value == PRESET and name != "preset" else value
            for name, value in vars(values).items()
        }
    )
