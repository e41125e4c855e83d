"""A small export of two classes for tests: a square of each, or one in the other, in images of 8 × 8 pixels."""

from pathlib import Path
from typing import Any

from tests.small_export import content, write_export

CORE = [4, 2, 6, 2, 6, 4, 4, 4]  # 2 × 2 pixels: columns 4 and 5, rows 2 and 3
BESIDE = [0, 6, 4, 6, 4, 8, 0, 8]  # 4 × 2 pixels, away from the square of `content`


def two_classes(images: int = 2, *, first: int = 0) -> dict[str, Any]:
    """Each image has the 4 × 4 square of `edema`, `core` in it or `core` beside it, in turn; `vessel` is nowhere."""
    found = content(images, first=first)
    found["categories"] = [
        {"id": 3, "name": "vessel"},
        {"id": 2, "name": "core"},
        {"id": 1, "name": "edema"},
    ]
    for place, image in enumerate(found["images"]):
        found["annotations"].append(
            {
                "id": 100 + place,
                "image_id": image["id"],
                "category_id": 2,
                "segmentation": [list(BESIDE if place % 2 else CORE)],
                "iscrowd": 0,
            }
        )
    return found


def write_two_classes(folder: Path, **contents: dict[str, Any]) -> Path:
    """An export of two images per split, or with the contents given by split folder."""
    return write_export(folder, **{split: two_classes() for split in ("train", "valid", "test")} | contents)
