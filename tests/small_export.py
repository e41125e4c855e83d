"""Small COCO exports for tests."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from seg.data.convert import convert
from seg.data.manifest import Manifest

SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]  # 4 × 4 pixels, columns and rows 2 to 5


def content(images: int = 2, *, height: int = 8, width: int = 8, first: int = 0) -> dict[str, Any]:
    """A valid annotation file: images `imageN.png`, each with the square."""
    numbers = range(first, first + images)
    return {
        "categories": [{"id": 1, "name": "lesion"}],
        "images": [{"id": n, "file_name": f"image{n}.png", "height": height, "width": width} for n in numbers],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": [list(SQUARE)], "area": 16, "iscrowd": 0}
            for n in numbers
        ],
    }


def write_image(path: Path, *, height: int = 8, width: int = 8, value: int = 100) -> None:
    """A grey image in which `value` is the first pixel."""
    image = np.full((height, width), 50, np.uint8)
    image[0, 0] = value
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def write_export(folder: Path, **contents: dict[str, Any]) -> Path:
    """An export in Roboflow's layout with two images per split, or with the contents given by split folder."""
    for number, split in enumerate(("train", "valid", "test")):
        split_content = contents.get(split, content())
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / "_annotations.coco.json").write_text(json.dumps(split_content), encoding="utf-8")
        for place, image in enumerate(split_content["images"]):
            path = folder / split / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, height=image["height"], width=image["width"], value=(100 * number + place) % 256)
    return folder


def run(data: Path, workspace: Path, **settings: Any) -> tuple[Manifest, str]:
    """Converts an export with one process; returns the dataset and the line that says what was done."""
    lines: list[str] = []
    manifest = convert(
        data, workspace, **{"image_size": 4, "jobs": 1, "progress": False} | settings, announce=lines.append
    )
    (line,) = lines
    return manifest, line
