"""The pictures of the audit: an image with its mask, an annotation pointed at, pairs, and a series in its splits."""

from collections.abc import Sequence

import cv2
import numpy as np

from seg.data.audit.context import Context, Labelled, Row
from seg.data.images import decode_image, resize_image
from seg.data.manifest import IGNORE
from seg.data.masks import region
from seg.errors import UserError
from seg.overlay import SKY_BLUE, VERMILION, YELLOW, overlay

SIDE = 236  # longer side of an image in the report, in pixels
COLOURS = {"train": SKY_BLUE, "val": YELLOW, "test": VERMILION}
_GAP = 6
_PLAIN_TO_SEE = 0.01  # share of the image from which an annotation needs no frame


def example(context: Context, row: Row) -> np.ndarray:
    """The image with its mask; from the record where the file can no longer be read."""
    found = row.example
    try:
        image = decode_image(context.path(found.file_name).read_bytes())
        if image.shape[:2] != (found.height, found.width):
            raise UserError("the image was rotated or replaced")
        mask = region(found.mask, found.height, found.width)
        if found.ignore is not None:
            mask[region(found.ignore, found.height, found.width) == 1] = IGNORE
    except (OSError, UserError):
        record = np.asarray(context.manifest.records(row.split)[row.index])
        image, mask = np.ascontiguousarray(record[..., :3]), record[..., 3]
    height, width = _fit(*image.shape[:2])
    return overlay(
        resize_image(image, height, width),
        cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8),
    )


def pointed_at(context: Context, labelled: Labelled) -> np.ndarray | None:
    """The image with its mask, and a small annotation in a frame; None where the image was left out."""
    row = context.by_file_name.get(labelled.file_name)
    if row is None:
        return None
    picture = example(context, row)
    if labelled.box[2] * labelled.box[3] > _PLAIN_TO_SEE * labelled.image.height * labelled.image.width:
        return picture
    scale = picture.shape[0] / labelled.image.height
    left, top, width, height = (side * scale for side in labelled.box)
    margin = 7
    corner = round(left) - margin, round(top) - margin
    opposite = round(left + width) + margin, round(top + height) + margin
    cv2.rectangle(picture, corner, opposite, VERMILION, 2, cv2.LINE_AA)
    return picture


def side_by_side(*pictures: np.ndarray) -> np.ndarray:
    """Pictures in one row, on white."""
    height = max(picture.shape[0] for picture in pictures)
    width = sum(picture.shape[1] + _GAP for picture in pictures) - _GAP
    row = np.full((height, width, 3), 255, np.uint8)
    left = 0
    for picture in pictures:
        row[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + _GAP
    return row


def series_strip(splits: Sequence[str], columns: int = 180, cell: int = 5) -> np.ndarray:
    """A series in the order of its numbers, one square per image in the colour of its split, in lines like text."""
    columns = min(columns, max(1, len(splits)))
    lines = -(-len(splits) // columns)
    cells = np.full((lines * columns, 3), 255, np.uint8)
    for place, split in enumerate(splits):
        cells[place] = COLOURS.get(split, (150, 150, 150))
    strip = cells.reshape(lines, columns, 3).repeat(cell, axis=0).repeat(cell, axis=1)
    strip[cell - 1 :: cell] = 255
    strip[:, cell - 1 :: cell] = 255
    return strip


def _fit(height: int, width: int) -> tuple[int, int]:
    scale = SIDE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
