"""Masks back to COCO: one annotation from a mask, and an annotation file that is written as it grows.

    with CocoWriter(Path("_annotations.coco.json"), categories=[Category(id=1, name="lesion")]) as writer:
        writer.add_image(1, "scan.png", height=256, width=256)
        writer.add_annotation(annotation_of(mask, image_id=1, category_id=1, segmentation="polygon"))

`seg.data.coco` reads these files, and the masks come back pixel for pixel in either form.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from seg.data.coco import Category
from seg.data.masks import measure, rasterise, run_lengths
from seg.data.outlines import outlines
from seg.data.segmentation import Polygons, RunLengths, most_outline, outline_length
from seg.errors import UserError

SEGMENTATIONS = ("rle", "polygon")


def annotation_of(
    mask: np.ndarray, *, image_id: int, category_id: int, segmentation: str = "rle", crowd: bool = False
) -> dict[str, Any]:
    """A whole mask as one COCO annotation, without an id: a binary mask does not know its objects.

    With a `score` added, it is an entry of a COCO results file.

    Args:
        mask: shape (height, width) of the image; what is not 0 is foreground.
        image_id, category_id: as the file has them.
        segmentation: `rle`, compressed run lengths; or `polygon`, outlines in whole pixels (see `seg.data.outlines`).
        crowd: mark it as a region to ignore (`iscrowd` 1), always as run lengths, as COCO has crowds.

    Returns:
        `image_id`, `category_id`, `segmentation`, `area`, `bbox` (left, top, width, height in pixels) and `iscrowd`,
        ready for JSON. An empty mask becomes run lengths of background, or no polygon; area 0.

    Raises:
        UserError: if there is no such segmentation, or the polygons are longer than the reader allows.
        RuntimeError: if the polygons would not give the mask back.
    """
    if segmentation not in SEGMENTATIONS:
        raise UserError(f"segmentation must be one of {', '.join(SEGMENTATIONS)}, got '{segmentation}'.")
    height, width = mask.shape
    counts = run_lengths(mask)
    area, box = measure(RunLengths(counts), height, width)
    form: Any = {"size": [height, width], "counts": counts}
    if segmentation == "polygon" and not crowd:
        form = outlines(mask)
        length = outline_length(Polygons(tuple(form)))
        if length > (most := most_outline(height, width)):
            raise UserError(
                f"the polygons of a {width}×{height} mask must be at most {most} pixels long together, "
                f"got {length:.0f}; use segmentation=rle."
            )
        if area and rasterise([Polygons(tuple(form))], height, width) != counts.encode("ascii"):
            raise RuntimeError(f"{len(form)} polygons must give back the mask of {area} pixels; use segmentation=rle.")
    return {
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": form,
        "area": area,
        "bbox": list(box),
        "iscrowd": int(crowd),
    }


class CocoWriter:
    """Writes one annotation file in bounded memory: beside its place, and renamed when the `with` block ends well.

    Args:
        path: of the file; its folder exists.
        categories: what `category_id`s stand for.
        info: COCO's free text about the file, ready for JSON.
    """

    def __init__(self, path: Path, *, categories: Sequence[Category], info: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._head = {"info": dict(info or {}), "categories": [asdict(category) for category in categories]}
        self._partial = path.with_name(f".{path.name}.partial.{os.getpid()}")
        self._annotations_partial = path.with_name(f".{path.name}.annotations.{os.getpid()}")
        self.images = 0
        self.annotations = 0

    def __enter__(self) -> Self:
        self._file = self._partial.open("w", encoding="utf-8")
        self._annotations_file = self._annotations_partial.open("w+", encoding="utf-8")
        self._file.write(json.dumps(self._head)[:-1] + ', "images": [')
        return self

    def add_image(self, image_id: int, file_name: str, *, height: int, width: int) -> None:
        """Adds an image; `file_name` is relative to the file's folder, the size is in pixels."""
        self._add(self._file, self.images, {"id": image_id, "file_name": file_name, "height": height, "width": width})
        self.images += 1

    def add_annotation(self, annotation: Mapping[str, Any]) -> None:
        """Adds an annotation, as `annotation_of` makes it; they are numbered from 1."""
        self._add(self._annotations_file, self.annotations, {"id": self.annotations + 1, **annotation})
        self.annotations += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file, self._annotations_file:
                if kind is None:
                    self._file.write('\n], "annotations": [')
                    self._annotations_file.seek(0)
                    for line in self._annotations_file:
                        self._file.write(line)
                    self._file.write("\n]}\n")
            if kind is None:
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)
            self._annotations_partial.unlink(missing_ok=True)

    @staticmethod
    def _add(file: IO[str], count: int, entry: Mapping[str, Any]) -> None:
        file.write((",\n" if count else "\n") + json.dumps(entry))
