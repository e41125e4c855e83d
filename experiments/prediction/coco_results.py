"""What `predict` leaves beside the pictures: `results.json`, `images.json` and `predictions.csv`.

    truth = COCO("test/_annotations.coco.json")            # or COCO("predictions/images.json")
    found = truth.loadRes("predictions/results.json")

`results.json` is a COCO results file: one entry per mask that is not empty, of several classes one per class.
`images.json` is a COCO file that says which image each id is; it loads together with the results too. All are written
beside their places and renamed.
"""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.prediction.batch_prediction import PredictedFile
from seg.data.coco import AnnotationFile, Category
from seg.data.coco_reader import read_annotations
from seg.data.coco_writer import CocoWriter
from seg.data.files import read_annotation_file
from seg.data.layout import ROBOFLOW_ANNOTATIONS
from seg.data.manifest import BINARY_CLASSES
from seg.errors import UserError

RESULTS, IMAGES, TABLE = "results.json", "images.json", "predictions.csv"
_COLUMNS = ("file", "mask", "height", "width", "area", "confidence", "unlike")


@dataclass(frozen=True, kw_only=True)
class ImageIds:
    """The ids of the results.

    Attributes:
        folder: that all images lie in.
        ids: by path.
        categories: of the classes, in their order.
        note: why the ids are not those of the annotations beside the images; empty where they are, or where there are
            none.
    """

    folder: Path
    ids: Mapping[Path, int]
    categories: tuple[Category, ...]
    note: str = ""

    def file_name(self, path: Path) -> str:
        """The path from the folder, as COCO writes it."""
        return Path(os.path.relpath(path, self.folder)).as_posix()


def image_ids(paths: Sequence[Path], classes: Sequence[str] = BINARY_CLASSES) -> ImageIds:
    """The ids that `_annotations.coco.json` in the images' folder gives them, if it lists all of them; else from 1 on.

    The category of one class is the one that has annotations there; of several such, the smallest id. Those of several
    classes are the ones of their names.
    """
    folder = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    own = ImageIds(
        folder=folder,
        ids={path: number for number, path in enumerate(paths, 1)},
        categories=tuple(Category(id=number, name=name) for number, name in enumerate(classes, 1)),
    )
    annotations = folder / ROBOFLOW_ANNOTATIONS
    if not annotations.is_file():
        return own
    try:
        truth = read_annotations(annotations, read_annotation_file(annotations, folder), "test")
    except UserError as error:
        return _with_note(own, str(error))
    known = {image.file_name: image.id for image in truth.images}
    listed = {path: known[name] for path in paths if (name := own.file_name(path)) in known}
    if len(listed) < len(paths):
        return _with_note(own, f"{annotations} does not list {len(paths) - len(listed)} of {len(paths)} images")
    if len(classes) == 1:
        category = _category(truth)
        return ImageIds(folder=folder, ids=listed, categories=own.categories if category is None else (category,))
    by_name = {category.name.strip(): category for category in truth.categories}
    if missing := [name for name in classes if name not in by_name]:
        return _with_note(own, f"{annotations} has no category {', '.join(missing)}")
    return ImageIds(folder=folder, ids=listed, categories=tuple(by_name[name] for name in classes))


def write_results(files: Iterable[PredictedFile], output: Path, ids: ImageIds, settings_key: str) -> None:
    """Writes the three files, in bounded memory.

    Args:
        files: those that could be predicted.
        output: the folder; it exists.
        ids: of at least these files.
        settings_key: noted in `images.json`.
    """
    results, table = (output / f".{name}.partial" for name in (RESULTS, TABLE))
    info = {"description": "images of results.json", "images": str(ids.folder), "settings": settings_key}
    with (
        CocoWriter(output / IMAGES, categories=ids.categories, info=info) as images,
        results.open("w", encoding="ascii") as entries,
        table.open("w", encoding="utf-8", errors="surrogateescape", newline="") as rows,
    ):
        writer = csv.writer(rows)
        writer.writerow(_COLUMNS)
        separator = "[\n"
        for file in files:
            record = file.record
            image_id = ids.ids[file.path]
            images.add_image(image_id, ids.file_name(file.path), height=record["height"], width=record["width"])
            cells = {**record, "file": file.path, "mask": file.name, "unlike": "; ".join(record["unlike"])}
            writer.writerow(cells[column] for column in _COLUMNS)
            for category, found in zip(ids.categories, record.get("classes", [record]), strict=True):
                if not found["area"]:
                    continue
                entry = {
                    "image_id": image_id,
                    "category_id": category.id,
                    "segmentation": found["segmentation"],
                    "score": found["confidence"],
                    "bbox": found["bbox"],
                }
                entries.write(separator + json.dumps(entry))
                separator = ",\n"
        entries.write("[]\n" if separator == "[\n" else "\n]\n")
    results.replace(output / RESULTS)
    table.replace(output / TABLE)


def remove_results(output: Path) -> None:
    """Takes away what an earlier call left: beside new pictures it would be wrong, and half of it would be missing."""
    for name in (RESULTS, IMAGES, TABLE):
        for path in (output / name, *output.glob(f".{name}.*")):
            path.unlink(missing_ok=True)


def _with_note(own: ImageIds, reason: str) -> ImageIds:
    return ImageIds(folder=own.folder, ids=own.ids, categories=own.categories, note=reason)


def _category(truth: AnnotationFile) -> Category | None:
    used = {annotation.category_id for annotation in truth.annotations}
    return min((category for category in truth.categories if category.id in used), key=lambda c: c.id, default=None)
