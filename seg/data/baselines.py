"""What a model must beat: scores on a split of three predictors that learned nothing.

A high `nearest_image` means that the splits leak: the image's neighbour, with nearly the same mask, was seen in
training. All are hard Dice per image at the training size, mean over the split; see docs/protocol.md.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from seg.data.manifest import Manifest
from seg.metrics import hard_dice

THUMBNAIL = 32  # pixels; smaller details do not tell which image is most alike
SHARES = tuple(step / 20 for step in range(1, 20))  # of the training masks
CHUNK = 64  # images at a time, so that memory does not grow with the dataset


def baselines(manifest: Manifest, split: str) -> dict[str, float]:
    """The trivial scores on a split.

    Returns:
        `all_background`: an empty mask for every image; `best_constant`: one mask for every image, the pixels that are
        foreground in at least a share of the training masks, the share with the best training score;
        `nearest_image`: the mask of the training image whose grey thumbnail correlates most.
    """
    empty = np.zeros((manifest.image_size, manifest.image_size), bool)
    return {
        "all_background": _score_of_constant(manifest, split, empty),
        "best_constant": _score_of_constant(manifest, split, best_constant(manifest)),
        "nearest_image": _score_of_nearest(manifest, split),
    }


def best_constant(manifest: Manifest) -> np.ndarray:
    """The single mask, (image_size, image_size) bool, that scores best on the training split."""
    share = np.zeros((manifest.image_size, manifest.image_size))
    for masks in _masks(manifest, "train"):
        share += (masks == 1).sum(axis=0)
    share /= manifest.splits["train"].examples
    candidates = [share >= limit for limit in SHARES]
    return max(candidates, key=lambda mask: _score_of_constant(manifest, "train", mask))


def nearest_images(manifest: Manifest, split: str) -> np.ndarray:
    """For each image of a split, the position of the most similar training image; itself, on the training split."""
    known = _thumbnails(manifest, "train")
    wanted = _thumbnails(manifest, split)
    return np.concatenate(
        [(wanted[start : start + CHUNK] @ known.T).argmax(axis=1) for start in range(0, len(wanted), CHUNK)]
    )


def _score_of_constant(manifest: Manifest, split: str, mask: np.ndarray) -> float:
    scores = [hard_dice(masks, np.broadcast_to(mask, masks.shape)) for masks in _masks(manifest, split)]
    return float(np.concatenate(scores).mean())


def _score_of_nearest(manifest: Manifest, split: str) -> float:
    training = manifest.records("train")
    nearest = nearest_images(manifest, split)
    scores, start = [], 0
    for masks in _masks(manifest, split):
        copied = training[nearest[start : start + len(masks)], ..., 3] == 1
        scores.append(hard_dice(masks, copied))
        start += len(masks)
    return float(np.concatenate(scores).mean())


def _masks(manifest: Manifest, split: str) -> Iterator[np.ndarray]:
    records = manifest.records(split)
    for start in range(0, len(records), CHUNK):
        yield np.asarray(records[start : start + CHUNK, ..., 3])


def _thumbnails(manifest: Manifest, split: str) -> np.ndarray:
    """Grey thumbnails of mean 0 and length 1, (images, pixels) float32: their product is their correlation."""
    found = []
    for record in manifest.records(split):
        grey = cv2.cvtColor(np.ascontiguousarray(record[..., :3]), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
        small -= small.mean()
        found.append(small / max(float(np.linalg.norm(small)), 1e-6))
    return np.stack(found)
