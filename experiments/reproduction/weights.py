"""The weights of two `.keras` files, array by array; read without TensorFlow."""

import io
import math
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from seg.errors import UserError

_WEIGHTS = "model.weights.h5"


@dataclass(frozen=True, kw_only=True)
class WeightComparison:
    """How the arrays of two models compare.

    Attributes:
        arrays: names that both have.
        differing: those of them whose shape, type or bits differ.
        only_then, only_now: names that one alone has.
        max_difference: largest absolute difference of two numbers at the same place of a differing array; None where
            it is no finite number, or two arrays of one name have other shapes.
        furthest: the array that has it; empty where nothing differs.
    """

    arrays: int
    differing: tuple[str, ...]
    only_then: tuple[str, ...]
    only_now: tuple[str, ...]
    max_difference: float | None
    furthest: str

    @property
    def bit_equal(self) -> bool:
        return not (self.differing or self.only_then or self.only_now)


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.keras` file by name: the layer's, and the array's number in it (`logits/0`).

    Raises:
        UserError: if the file is none.
    """
    found: dict[str, tuple[str, np.ndarray]] = {}

    def visit(place: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset):
            group, _, number = place.rpartition("/")
            # Keras numbers layers by kind; the name that the model gave one stands beside it.
            name = item.parent.attrs.get("name", group)
            found[place] = (f"{name}/{number}", np.asarray(item))

    try:
        with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read(_WEIGHTS)), "r") as file:
            file.visititems(visit)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"{path} must be a .keras file with its weights, got {type(error).__name__}: {error}."
        ) from None
    counts = Counter(name for name, _ in found.values())
    return {name if counts[name] == 1 else place: array for place, (name, array) in found.items()}


def compare_weights(then: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]) -> WeightComparison:
    """Compares arrays of the same name exactly: shape, type and every bit."""
    differing: list[str] = []
    furthest, largest = "", 0.0
    both = [name for name in then if name in now]
    for name in both:
        before, after = then[name], now[name]
        if before.shape == after.shape and before.dtype == after.dtype and before.tobytes() == after.tobytes():
            continue
        differing.append(name)
        distance = _distance(before, after)
        if not furthest or not distance <= largest:
            furthest, largest = name, distance
    return WeightComparison(
        arrays=len(both),
        differing=tuple(differing),
        only_then=tuple(name for name in then if name not in now),
        only_now=tuple(name for name in now if name not in then),
        max_difference=largest if math.isfinite(largest) else None,
        furthest=furthest,
    )


def _distance(before: np.ndarray, after: np.ndarray) -> float:
    """The largest absolute difference; infinite where shapes differ, or one of two numbers is not finite."""
    if before.shape != after.shape or not all(np.issubdtype(array.dtype, np.number) for array in (before, after)):
        return math.inf
    with np.errstate(invalid="ignore", over="ignore"):
        differences = np.abs(before.astype(np.float64) - after.astype(np.float64))
    largest = float(differences.max(initial=0.0))
    return math.inf if math.isnan(largest) else largest
