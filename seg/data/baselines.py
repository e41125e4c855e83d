"""What can be scored without learning anything: a model is worth only what it scores above this."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import cv2
import numpy as np

from seg.data.manifest import IGNORE, Manifest, is_foreground
from seg.data.series import place_in_series
from seg.metrics import count_classes, mean_class_dice, mean_over_classes

THUMBNAIL = 32  # side in pixels
_THRESHOLDS = 50
_BLOCK = 64  # records in memory at once


def baselines(manifest: Manifest, split: str) -> dict[str, float]:
    """Scores of three predictions that need no model: hard Dice per image, mean over the split, at the training size.

    Dice is 2·|P ∩ M| / (|P| + |M|) over the pixels that are not ignored; both empty: 1; only one empty: 0. Of several
    classes it is an image's mean over those that are there or predicted, as in `seg.metrics`.

    Args:
        manifest: of a converted dataset; what is copied or averaged comes from its `train`.
        split: the split that is scored. In `train` itself an image is not its own neighbour.

    Returns:
        `all_background`: an empty mask for every image. `best_constant`: one mask for every image, where the mean
        training mask exceeds the threshold that scores best on train; of several classes, each pixel has the most
        frequent one. `nearest_image`: the mask of the training image that looks most alike.
    """
    size = manifest.image_size
    empty = np.zeros((size * size, 1), np.uint8)
    return {
        "all_background": float(_constant_dice(manifest, split, empty)[0]),
        "best_constant": float(_constant_dice(manifest, split, _best_constant(manifest))[0]),
        "nearest_image": _nearest_dice(manifest, split),
    }


def nearest_strangers_dice(manifest: Manifest, split: str, gap: int) -> float | None:
    """As `nearest_image`, where no image is copied whose number is within `gap` of the scored one's in its series.

    Returns:
        The mean Dice; None where the names form no series that runs through both `split` and `train`. An image for
        which nothing is left to copy scores as all background.
    """
    places = [_places(manifest, name) for name in (split, "train")]
    if not {place[0] for place in places[0] if place} & {place[0] for place in places[1] if place}:
        return None
    train: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, place in enumerate(places[1]):
        if place:
            train[place[0]].append((place[1], row))
    neighbours = [
        [row for number, row in train[place[0]] if abs(number - place[1]) <= gap] if place else []
        for place in places[0]
    ]
    return _nearest_dice(manifest, split, neighbours)


def _places(manifest: Manifest, split: str) -> list[tuple[str, int] | None]:
    """Each example's series and number; the folder, which differs between splits, is no part of the series."""
    return [place_in_series(PurePosixPath(example.file_name).name) for example in manifest.examples(split)]


def _blocks(manifest: Manifest, split: str) -> Iterator[tuple[slice, np.ndarray]]:
    records = manifest.records(split)
    for start in range(0, len(records), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(records)))
        yield rows, np.asarray(records[rows])


def _best_constant(manifest: Manifest) -> np.ndarray:
    """The constant mask that scores best on train, shape (pixels, 1), uint8."""
    classes = len(manifest.classes)
    frequent = np.zeros((classes, manifest.image_size**2))
    known = np.zeros(manifest.image_size**2)
    for _, records in _blocks(manifest, "train"):
        masks = records[..., 3].reshape(len(records), -1)
        for label in range(1, classes + 1):
            frequent[label - 1] += (masks == label).sum(axis=0)
        known += (masks != IGNORE).sum(axis=0)
    mean = frequent.sum(axis=0) / np.maximum(known, 1)
    thresholds = np.linspace(0, mean.max(), _THRESHOLDS)  # the last one leaves nothing: all background
    winners = (1 + frequent.argmax(axis=0)).astype(np.uint8)
    candidates = (mean[:, None] > thresholds) * winners[:, None]
    return candidates[:, [int(_constant_dice(manifest, "train", candidates).argmax())]]


def _constant_dice(manifest: Manifest, split: str, candidates: np.ndarray) -> np.ndarray:
    """Mean Dice of each of some constant masks, (pixels, candidates) of 0 and classes; shape (candidates,)."""
    labels = range(1, 1 + len(manifest.classes))
    painted = [(candidates == label).astype(np.float32) for label in labels]
    total = np.zeros(candidates.shape[1])
    for _, records in _blocks(manifest, split):
        masks = records[..., 3].reshape(len(records), -1)
        scores = [_constant_class_dice(masks, label, mask) for label, mask in zip(labels, painted, strict=True)]
        total += mean_over_classes(np.stack(scores, axis=-1)).sum(axis=0)
    return total / manifest.splits[split].examples


def _constant_class_dice(masks: np.ndarray, label: int, candidates: np.ndarray) -> np.ndarray:
    """Dice of one class of each image with each candidate, (images, candidates); NaN where neither has it."""
    foreground = (masks == label).astype(np.float32)
    overlap = foreground @ candidates
    if (masks == IGNORE).any():
        predicted = (masks != IGNORE).astype(np.float32) @ candidates
    else:
        predicted = np.broadcast_to(candidates.sum(axis=0), overlap.shape)
    return _dice(overlap, predicted + foreground.sum(axis=1, keepdims=True))


def _nearest_dice(manifest: Manifest, split: str, excluded: Sequence[Sequence[int]] = ()) -> float:
    """Mean Dice of copying; `excluded` are, for each scored image, the training rows that must not be copied."""
    known = thumbnails(manifest, "train")
    train = manifest.records("train")
    total = 0.0
    for rows, records in _blocks(manifest, split):
        likeness = _normalised(records) @ known.T
        if split == "train":
            likeness[np.arange(len(records)), np.arange(rows.start, rows.stop)] = -np.inf
        for offset, others in enumerate(excluded[rows]):
            likeness[offset, others] = -np.inf
        for mask, alike in zip(records[..., 3], likeness, strict=True):
            nearest = alike.argmax()
            left = alike[nearest] > -np.inf
            predicted = train[nearest, ..., 3] * is_foreground(train[nearest, ..., 3]) * left
            counts = count_classes(mask[None], predicted[None], len(manifest.classes))
            total += float(mean_class_dice(counts)[0])
    return total / manifest.splits[split].examples


def thumbnails(manifest: Manifest, split: str) -> np.ndarray:
    """The images of a split, small, grey, without mean and contrast: a product of two rows is their correlation.

    Returns:
        Shape (examples, THUMBNAIL²), float32.
    """
    return np.concatenate([_normalised(records) for _, records in _blocks(manifest, split)])


def _normalised(records: np.ndarray) -> np.ndarray:
    """Small grey pictures without their mean and contrast, shape (examples, THUMBNAIL²): a product is a correlation."""
    small = [
        cv2.resize(
            cv2.cvtColor(record[..., :3], cv2.COLOR_RGB2GRAY), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA
        )
        for record in np.ascontiguousarray(records)
    ]
    flat = np.stack(small).reshape(len(small), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _dice(overlap: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """2·overlap / (|P| + |M|); NaN where both are empty."""
    return np.where(sizes > 0, 2 * overlap / np.maximum(sizes, 1), np.nan)
