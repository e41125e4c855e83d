"""Test-time augmentation: which mirror images and quarter turns of an image a prediction is the mean of.

Travels with the registered model.
"""

from seg.errors import UserError

Symmetry = tuple[bool, tuple[int, ...]]
"""Whether rows and columns are swapped, then the axes that are flipped, of `(batch, height, width, …)`."""

_FLIPS: tuple[Symmetry, ...] = tuple((False, axes) for axes in ((), (1,), (2,), (1, 2)))

TTA: dict[str, tuple[Symmetry, ...]] = {
    "none": _FLIPS[:1],
    "flips": _FLIPS,
    "square": (*_FLIPS, *((True, axes) for _, axes in _FLIPS)),
}
"""`none`: the image as it is; `flips`: it and its three mirror images; `square`: all eight symmetries of the square."""


def symmetries(tta: str) -> tuple[Symmetry, ...]:
    """The symmetries of a kind of test-time augmentation.

    Raises:
        UserError: if there is no such kind.
    """
    if tta not in TTA:
        raise UserError(f"tta must be one of {', '.join(TTA)}, got '{tta}'.")
    return TTA[tta]
