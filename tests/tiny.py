"""A tiny dataset, written directly as a converted dataset: no files to decode, no TensorFlow."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from seg.data.manifest import BINARY_CLASSES, IGNORE, Example, Manifest, SplitSummary, is_foreground


def write_tiny(
    folder: Path, *, train: int = 13, val: int = 7, test: int = 5, image_size: int = 16, seed: int = 0, classes: int = 1
) -> Manifest:
    """Noisy dark images, each with one bright square to find; every fourth image is empty.

    The first image of each split has an ignored corner. The own size of every image is twice `image_size`. Of several
    classes, the squares take turns, and each class is bright in a colour of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    splits = {}
    for split, examples in {"train": train, "val": val, "test": test}.items():
        labels = [0 if classes == 1 else 1 + index % classes for index in range(examples)]
        records = np.stack(
            [_record(random, image_size, empty=index % 4 == 3, label=label) for index, label in enumerate(labels)]
        )
        records[0, :2, :2, 3] = IGNORE
        np.save(folder / f"{split}.npy", records)
        lines = [json.dumps(asdict(_example(split, index, record, classes))) for index, record in enumerate(records)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        masks = is_foreground(records[..., 3])
        splits[split] = SplitSummary(
            examples=examples,
            empty=int((~masks.any(axis=(1, 2))).sum()),
            foreground=float(masks.mean()),
            key=f"tiny-{split}-{seed}",
        )
    manifest = Manifest(
        folder=folder,
        key=f"tiny-{seed}",
        name="tiny",
        image_size=image_size,
        split="official",
        settings={},
        categories=[{"id": 1, "name": "square", "annotations": train + val + test, "used": True}],
        splits=splits,
        left_out=[],
        classes=BINARY_CLASSES if classes == 1 else tuple("abc"[:classes]),
    )
    manifest.save()
    return Manifest.load(folder)


def _record(random: np.random.Generator, size: int, *, empty: bool, label: int) -> np.ndarray:
    """`label` 0: of the only class, and white."""
    record = np.zeros((size, size, 4), np.uint8)
    record[..., :3] = random.integers(20, 60, (size, size, 3))
    if not empty:
        side = int(random.integers(size // 4, size // 2 + 1))
        top, left = random.integers(0, size - side + 1, 2)
        colour = slice(3) if label == 0 else slice(label - 1, label)
        record[top : top + side, left : left + side, colour] += 150
        record[top : top + side, left : left + side, 3] = max(1, label)
    return record


def _example(split: str, index: int, record: np.ndarray, classes: int) -> Example:
    own = record[..., 3].repeat(2, axis=0).repeat(2, axis=1)
    height, width = own.shape
    ignored = own == IGNORE
    return Example(
        image_id=index,
        file_name=f"{split}/{index}.png",
        height=height,
        width=width,
        sha256=f"{index:064x}",
        mask=_rle(is_foreground(own)),
        ignore=_rle(ignored) if ignored.any() else None,
        classes=tuple(_rle(own == label) for label in range(1, classes + 1)) if classes > 1 else (),
    )


def _rle(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")
