"""Where replicas and one device disagree, by name. Imports no TensorFlow: the driver compares what processes found."""

from collections.abc import Mapping
from typing import Any

import numpy as np

QUANTITIES = ("loss", "gradient", "statistics", "val_loss", "val_dice")
RELATIVE, ABSOLUTE = 1e-4, 2e-6  # what the order of float32 additions may change


def differences(one: Mapping[str, Any], many: Mapping[str, Any]) -> list[str]:
    """What the `measure` of two processes does not agree on, a line each; empty if the replicas compute the same."""
    faults = list(dict.fromkeys([*one["faults"], *many["faults"]]))
    count = many["replicas"]
    for name in many["losses"]:
        alone, together = one["losses"].get(name), many["losses"][name]
        if alone is None:
            continue  # one device found a fault before, which is named
        for quantity in QUANTITIES:
            if quantity not in alone or quantity not in together:
                continue  # a fault kept it from being computed, which is named
            if not agree(together[quantity], alone[quantity]):
                faults.append(
                    f"loss '{name}' must have the same {quantity} on {count} replicas as on one device, "
                    f"got {_ratio(together[quantity], alone[quantity])}"
                )
        if together.get("images") != alone.get("images"):
            faults.append(
                f"loss '{name}' must be of as many validation images on {count} replicas as on one device, "
                f"got {together.get('images')} and {alone.get('images')}"
            )
    return faults


def agree(many: Any, one: Any) -> bool:
    """Whether two numbers, or lists of them, are the same but for rounding; what is all zero proves nothing."""
    first, second = np.asarray(many, np.float64), np.asarray(one, np.float64)
    same_shape = first.shape == second.shape and bool(np.any(second != 0))
    return same_shape and np.allclose(first, second, rtol=RELATIVE, atol=ABSOLUTE)


def _ratio(many: Any, one: Any) -> str:
    first, second = (float(np.linalg.norm(np.asarray(value, np.float64))) for value in (many, one))
    return f"{first:.6g} and {second:.6g}" + (f", {first / second:.3f} times as much" if second else "")
