"""Faults to plant in the reader, to see that the fuzzer finds them: a fuzzer that finds nothing must be able to.

Each waits behind a condition that no seed fulfils.
"""

import ctypes
import time
from typing import Any

import numpy as np

from tests.fuzz import targets


def plant(fault: str) -> None:
    """Replaces two functions that the targets call with ones that fail now and then.

    Args:
        fault: one of `FAULTS`.
    """
    masks, decode = targets.example_mask, targets.decode_image

    def example_mask(annotations: Any, height: int, width: int, *, crowds: str) -> Any:
        mask, counts, ignored = masks(annotations, height, width, crowds=crowds)
        if any(annotation.crowd and annotation.area is None for annotation in annotations):
            mask = FAULTS[fault](mask)
        return mask, counts, ignored

    def decode_image(data: bytes, **options: Any) -> np.ndarray:
        image = decode(data, **options)
        return FAULTS[fault](image) if image.shape[1] == 25 else image

    targets.example_mask, targets.decode_image = example_mask, decode_image


def _crash(array: np.ndarray) -> np.ndarray:
    ctypes.string_at(0)
    return array


def _hang(array: np.ndarray) -> np.ndarray:
    while True:
        pass


def _value(array: np.ndarray) -> np.ndarray:
    return array + np.uint8(7) if array.ndim == 2 else array[..., :2]


def _memory(array: np.ndarray) -> np.ndarray:
    filled = np.ones(2**31, np.uint8)
    time.sleep(2)  # the limit is looked at once a second
    return array + filled[:1]


def _exception(array: np.ndarray) -> np.ndarray:
    raise IndexError("planted")


FAULTS = {"crash": _crash, "hang": _hang, "value": _value, "memory": _memory, "exception": _exception}
