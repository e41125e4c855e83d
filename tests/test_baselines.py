from pathlib import Path

import numpy as np
import pytest

from seg.data.baselines import baselines
from seg.data.manifest import Manifest, SplitSummary


def dataset(folder: Path, **splits: list[tuple[np.ndarray, np.ndarray]]) -> Manifest:
    """A dataset of 4 × 4 records from (grey image, mask)."""
    for name, examples in splits.items():
        records = [np.dstack([image, image, image, mask]).astype(np.uint8) for image, mask in examples]
        np.save(folder / f"{name}.npy", np.stack(records))
    return Manifest(
        folder=folder,
        key="",
        name="",
        image_size=4,
        split="official",
        settings={},
        categories=[],
        splits={
            name: SplitSummary(examples=len(found), empty=0, foreground=0, key="") for name, found in splits.items()
        },
        left_out=[],
    )


def mask(*pixels: int, ignored: tuple[int, ...] = ()) -> np.ndarray:
    flat = np.zeros(16, np.uint8)
    flat[list(pixels)] = 1
    flat[list(ignored)] = 255
    return flat.reshape(4, 4)


LEFT = np.tile([200, 200, 0, 0], (4, 1))
TOP = LEFT.T


def test_worked_by_hand(tmp_path):
    train = [(LEFT, mask(0, 1)), (TOP, mask(0, 2)), (255 - LEFT, mask())]
    test = [(LEFT // 2, mask(0)), (TOP // 2 + 50, mask(2, 3)), (255 - LEFT, mask())]
    scores = baselines(dataset(tmp_path, train=train, test=test), "test")
    # nothing predicted: only the empty mask scores
    assert scores["all_background"] == pytest.approx(1 / 3)
    # mean training mask: 2/3 at pixel 0, 1/3 at 1 and 2. On train, all three pixels score (4/5 + 4/5 + 0) / 3 = 0.533,
    # pixel 0 alone (2/3 + 2/3 + 0) / 3 = 0.444, nothing 1/3. On test: {0} 2/4, {2, 3} 2/5, {} 0; over 3.
    assert scores["best_constant"] == pytest.approx((1 / 2 + 2 / 5 + 0) / 3)
    # {0, 1} for {0}: 2/3; {0, 2} for {2, 3}: 2/4; {} for {}: 1
    assert scores["nearest_image"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_ignored_pixels_do_not_count(tmp_path):
    train = [(LEFT, mask(0, 1, ignored=(5,))), (LEFT, mask(0, 1))]
    test = [(LEFT, mask(0, ignored=(1,)))]
    scores = baselines(dataset(tmp_path, train=train, test=test), "test")
    assert scores == pytest.approx({"all_background": 0, "best_constant": 1, "nearest_image": 1})


def test_an_image_is_not_its_own_neighbour(tmp_path):
    train = [(LEFT, mask(0)), (LEFT, mask(1)), (TOP, mask(2))]
    # the first two are copied for each other, and one of them for the third: all score 0
    assert baselines(dataset(tmp_path, train=train), "train")["nearest_image"] == 0


def test_flat_images(tmp_path):
    flat = np.full((4, 4), 9)
    assert baselines(dataset(tmp_path, train=[(flat, mask(0))], test=[(flat, mask(0))]), "test")["nearest_image"] == 1
