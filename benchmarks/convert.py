"""How fast conversion is, beside the loop that one would write first.

    python -m benchmarks.convert --data FOLDER [--image_size 256] [--rounds 5]

The naive loop: one process, pycocotools, OpenCV's colour decoder and resize, PNG out for image and mask. Ours:
`convert` into an empty workspace, everything included. Both run in turn, so that both see the same machine.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO

from seg.data.convert import convert
from seg.data.layout import find_splits


def naive(data: Path, workspace: Path, image_size: int) -> int:
    """Converts an export in the plainest way; returns the number of images."""
    images = 0
    for split in find_splits(data):
        coco = COCO(str(split.annotations))
        for folder in ("image", "mask"):
            (workspace / f"{split.name}_{folder}").mkdir()
        for identity, entry in coco.imgs.items():
            image = cv2.imread(str(split.images / entry["file_name"]))
            mask = np.zeros(image.shape[:2], np.uint8)
            for annotation in coco.imgToAnns[identity]:
                mask |= coco.annToMask(annotation)
            size = (image_size, image_size)
            name = f"{Path(entry['file_name']).stem}.png"
            cv2.imwrite(str(workspace / f"{split.name}_image" / name), cv2.resize(image, size))
            resized = cv2.resize(mask * 255, size, interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(workspace / f"{split.name}_mask" / name), resized)
            images += 1
    return images


def ours(data: Path, workspace: Path, image_size: int) -> int:
    """Converts an export with this project; returns the number of images."""
    manifest = convert(data, workspace, image_size=image_size, progress=False)
    return sum(split.examples for split in manifest.splits.values())


def images_per_second(way: Callable[[Path, Path, int], int], data: Path, image_size: int) -> float:
    """One run of one way into an empty folder."""
    with tempfile.TemporaryDirectory() as workspace:
        started = time.perf_counter()
        images = way(data, Path(workspace), image_size)
        return images / (time.perf_counter() - started)


def main() -> None:
    """Runs both ways in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of a COCO export")
    parser.add_argument("--image_size", type=int, default=256, help="side of the records, in pixels (256)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way (5)")
    options = parser.parse_args()
    speeds: dict[str, list[float]] = {"naive": [], "ours": []}
    for _ in range(options.rounds):
        for name, way in (("naive", naive), ("ours", ours)):
            speeds[name].append(images_per_second(way, options.data, options.image_size))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print("| way | images/s (median) | lowest | highest |\n|---|---|---|---|")
    for name, values in speeds.items():
        print(f"| {name} | {medians[name]:.0f} | {min(values):.0f} | {max(values):.0f} |")
    print(f"ours / naive: {medians['ours'] / medians['naive']:.2f}")


if __name__ == "__main__":
    main()
