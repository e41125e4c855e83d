"""One input through the real reading path; whatever comes out is checked.

An input may be accepted or refused (`UserError`, `BrokenRule`, `Problem`). Everything else is a finding.
"""

import json
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from seg.data.audit.headers import read_header
from seg.data.build import mask_names
from seg.data.coco import AnnotationFile, ImageEntry
from seg.data.coco_reader import read_annotations
from seg.data.files import ImageFolder
from seg.data.images import MAX_PIXELS, decode_image, header_size, resize_image, resize_mask
from seg.data.manifest import IGNORE
from seg.data.masks import example_mask, measure, region, used_categories
from seg.data.segmentation import BrokenRule
from seg.data.series import place_in_series
from seg.errors import UserError

SIDE = 16  # of the records
_FOLDER = Path(tempfile.gettempdir()).resolve()
_ANNOTATIONS = Path("train/_annotations.coco.json")


class WrongResult(Exception):
    """An input was accepted, and what became of it is not what the docstrings promise."""


def feed_annotations(data: bytes) -> bool:
    """Reads an annotation file and makes the mask of each of its images; whether it was accepted as a file."""
    try:
        file = read_annotations(_ANNOTATIONS, data, "train")
    except UserError as error:
        _expect("\n" not in str(error), "a message of several lines")
        return False
    for problem in file.problems:
        _expect("\n" not in str(problem), "a message of several lines")
        str(problem).encode()  # printable everywhere
    used_categories(file.categories, "all")
    names = mask_names([image.file_name for image in file.images])
    _expect(len({name.casefold() for name in names}) == len(names), "two masks of one name")
    pixels = 0
    for image in file.images:
        pixels += image.height * image.width
        if pixels > MAX_PIXELS:  # the largest image has been; a hundred of them would only take time
            break
        _make_mask(file, image)
    return True


def _make_mask(file: AnnotationFile, image: ImageEntry) -> None:
    try:
        ImageFolder(_FOLDER, _FOLDER).locate(image.file_name)
    except BrokenRule as broken:
        json.dumps(broken.message)
    place_in_series(image.file_name)
    annotations = [annotation for annotation in file.annotations if annotation.image_id == image.id]
    for annotation in annotations:
        area, (left, top, width, height) = measure(annotation.segmentation, image.height, image.width)
        _expect(0 <= area <= width * height, f"an area of {area} in a box of {width}×{height}")
        _expect(left + width <= image.width and top + height <= image.height, "a box beyond the image")
    mask, counts, ignored = example_mask(annotations, image.height, image.width, crowds="ignore")
    _check_mask(mask, image.height, image.width)
    _check_mask(resize_mask(mask, SIDE, SIDE), SIDE, SIDE)
    _expect(np.array_equal(region(counts, image.height, image.width), mask == 1), "run lengths of another mask")
    if ignored is not None:
        _expect(np.array_equal(region(ignored, image.height, image.width), mask == IGNORE), "others are ignored")


def feed_image(data: bytes) -> bool:
    """Decodes and resizes an image file; whether it was accepted."""
    read_header(data)
    variant = zlib.crc32(data)  # as good as random, and the same again when the input is replayed
    fit, exif = (SIDE, SIDE) if variant & 1 else None, bool(variant & 2)
    try:
        height, width = header_size(data)
        image = decode_image(data, exif=exif, fit=fit)
    except UserError as error:
        _expect("\n" not in str(error), "a message of several lines")
        return False
    _check_picture(image, *image.shape[:2])
    if fit is None:
        sizes = [(height, width), (width, height)] if exif else [(height, width)]
        _expect(image.shape[:2] in sizes, f"{image.shape[:2]} where the header states {(height, width)}")
    _check_picture(resize_image(image, SIDE, SIDE), SIDE, SIDE)
    return True


TARGETS: dict[str, Callable[[bytes], bool]] = {"annotations": feed_annotations, "images": feed_image}


def _check_mask(mask: np.ndarray, height: int, width: int) -> None:
    _expect(mask.shape == (height, width) and mask.dtype == np.uint8, f"a mask of {mask.dtype}, {mask.shape}")
    _expect(bool(((mask <= 1) | (mask == IGNORE)).all()), f"a mask of values {np.unique(mask)[:9]}")


def _check_picture(image: np.ndarray, height: int, width: int) -> None:
    _expect(image.shape == (height, width, 3) and image.dtype == np.uint8, f"an image of {image.dtype}, {image.shape}")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise WrongResult(otherwise)
