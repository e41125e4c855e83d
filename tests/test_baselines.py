import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from seg.data.baselines import baselines, nearest_strangers_dice
from seg.data.manifest import Example, Manifest, SplitSummary


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


def numbered(manifest: Manifest, **names: list[str]) -> Manifest:
    for split, found in names.items():
        lines = [
            Example(image_id=0, file_name=f"{split}/{name}", height=4, width=4, sha256="", mask="") for name in found
        ]
        text = "".join(json.dumps(asdict(example)) + "\n" for example in lines)
        (manifest.folder / f"{split}.jsonl").write_text(text)
    return manifest


def test_without_the_neighbours_in_the_series(tmp_path):
    train = [(LEFT, mask(0, 1)), (LEFT // 2 + 9 * (TOP > 0), mask(0)), (TOP, mask(5))]
    manifest = dataset(tmp_path, train=train, test=[(LEFT, mask(0, 1)), (TOP, mask(5))])
    numbered(manifest, train=["s10.png", "s20.png", "t14.png"], test=["s15.png", "t20.png"])
    # with everything, both find their twin: 1
    assert baselines(manifest, "test")["nearest_image"] == 1
    # s10 and s20 are 5 from s15, so t14 is left: {5} for {0, 1} scores 0. t14 is 6 from t20 and stays: 1
    assert nearest_strangers_dice(manifest, "test", 5) == pytest.approx((0 + 1) / 2)
    # 5 numbers apart is beyond a gap of 4
    assert nearest_strangers_dice(manifest, "test", 4) == 1


def test_nothing_left_to_copy_scores_as_background(tmp_path):
    manifest = dataset(tmp_path, train=[(LEFT, mask(0))], test=[(LEFT, mask(0)), (TOP, mask())])
    numbered(manifest, train=["s1.png"], test=["s2.png", "s3.png"])
    assert nearest_strangers_dice(manifest, "test", 5) == 1 / 2


def test_no_series_in_common(tmp_path):
    manifest = dataset(tmp_path, train=[(LEFT, mask(0))], test=[(LEFT, mask(0))])
    numbered(manifest, train=["s1.png"], test=["plain.png"])
    assert nearest_strangers_dice(manifest, "test", 5) is None
