"""How alike images are: strangers, neighbours and copies."""

from pathlib import Path

import cv2
import numpy as np

from seg.data.images import decode_image, resize_image
from seg.errors import UserError

PICTURE = 128  # side of the grey pictures whose detail is compared, in pixels
COMPARED = 10  # images whose detail is compared with one image's

_PAIRS = 2000  # random pairs that say how alike strangers are
# Correlation of the detail. Neighbouring MRI slices reach 0.61, and 0.71 at 96 pixels; their copies, shrunk to 70 % and
# recompressed at JPEG quality 60, have 0.98.
_SAME_DETAIL = 0.63


def stranger_likeness(thumbnails: np.ndarray) -> float:
    """Median correlation of random pairs of images; `thumbnails` as in `seg.data.baselines`."""
    random = np.random.default_rng(0)
    first, second = random.integers(0, len(thumbnails), (2, _PAIRS))
    different = first != second
    if not different.any():
        return 1.0
    return float(np.median((thumbnails[first[different]] * thumbnails[second[different]]).sum(axis=1)))


def small_picture(path: Path) -> np.ndarray | None:
    """An image file as a grey picture, shape (PICTURE, PICTURE), uint8; None where it cannot be read."""
    try:
        image = decode_image(path.read_bytes())
    except (OSError, UserError):
        return None
    return np.asarray(cv2.cvtColor(resize_image(image, PICTURE, PICTURE), cv2.COLOR_RGB2GRAY))


def most_alike(likeness: np.ndarray, least: float) -> np.ndarray:
    """Which images are worth comparing in detail: up to `COMPARED`, most alike first.

    The nearest alone would not do: where a camera stands still, strangers' small pictures are as alike as a copy's.

    Args:
        likeness: correlations of one image with others, shape (images,).
        least: from which on detail is compared.
    """
    nearest = np.argpartition(-likeness, COMPARED)[:COMPARED] if len(likeness) > COMPARED else np.arange(len(likeness))
    nearest = nearest[likeness[nearest] >= least]
    return nearest[np.argsort(-likeness[nearest], kind="stable")]


def same_texture(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two grey pictures of `PICTURE` size agree in their finest detail, as only copies of a picture do."""
    return float((_detail(first) * _detail(second)).sum()) >= _SAME_DETAIL


def _detail(picture: np.ndarray) -> np.ndarray:
    """What a slight blur removes, with the local contrast evened out, so that strong edges do not drown the rest."""
    grey = picture.astype(np.float32)
    fine = grey - cv2.GaussianBlur(grey, (0, 0), 1.5)
    even = fine / np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), 4) + 4)
    even -= even.mean()
    return np.asarray(even / max(float(np.linalg.norm(even)), 1e-6))
