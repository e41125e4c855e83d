"""One image and its annotations become one record, in a worker process."""

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from seg.data.certificate import compare_areas
from seg.data.coco import Annotation, ImageEntry
from seg.data.decoder_lines import DecoderLines
from seg.data.images import decode_image, header_size, resize_mask, resized_channels
from seg.data.manifest import IGNORE, Example
from seg.data.masks import around, example_mask, extent, rasterise_each, refuse_overlaps, run_lengths
from seg.data.segmentation import BrokenRule
from seg.errors import UserError
from seg.overlay import coloured

IGNORED_GREY = 128


@dataclass(frozen=True, kw_only=True)
class Task:
    """One image to convert.

    Attributes:
        split, row: where its record goes.
        path: of the image file.
        file_name: relative to the export, as the `Example` has it.
        sha256: of the file's bytes when the dataset's key was computed; empty where it will be computed afterwards.
        image: the image's entry.
        annotations: those of the used categories.
        mask_name: file name of the mask to look at.
        group: as in `Example`.
        labels: the class of each annotation; empty where there is one class alone.
    """

    split: str
    row: int
    path: Path
    file_name: str
    sha256: str
    image: ImageEntry
    annotations: tuple[Annotation, ...]
    mask_name: str
    group: str | None = None
    labels: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What became of a task; `foreground` counts pixels of the record."""

    example: Example
    foreground: int


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A task whose file or annotations break a rule; `sha256` is of the file as it was read, empty where it was not."""

    broken: BrokenRule
    sha256: str = ""


class RecordWriter:
    """Converts tasks and writes each record to its place in the split's `.npy` file.

    Args:
        folder: of the dataset; the `.npy` files exist at their full length.
        offsets: length of the header of each split's `.npy` file, in bytes.
        image_size: side of the records, in pixels.
        crowds, exif, overlaps: as in `convert`.
        classes: how many there are.
    """

    def __init__(
        self,
        folder: Path,
        offsets: dict[str, int],
        image_size: int,
        *,
        crowds: str,
        exif: str,
        overlaps: str,
        classes: int = 1,
    ) -> None:
        self._folder = folder
        self._offsets = offsets
        self._image_size = image_size
        self._crowds = crowds
        self._exif = exif
        self._overlaps = overlaps
        self._classes = classes
        self._files: dict[str, int] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Arrives in a worker process: every core has one, so OpenCV's own threads would only get in the way.
        self.__dict__ |= state
        cv2.setNumThreads(1)

    def __call__(self, task: Task) -> Converted | Refused:
        """Converts one image; a rule that its file breaks is returned, not raised."""
        sha256 = ""
        try:
            if self._overlaps == "refuse":
                refuse_overlaps(task.annotations, task.image.height, task.image.width, crowds=self._crowds)
            data = _read_file(task.path)
            sha256 = hashlib.sha256(data).hexdigest()
            image = self._decode(task, data, sha256)
        except BrokenRule as broken:
            return Refused(broken=broken, sha256=sha256)
        entry = task.image
        objects = rasterise_each(task.annotations, entry.height, entry.width)
        mask, counts, ignored = example_mask(
            task.annotations, entry.height, entry.width, crowds=self._crowds, labels=task.labels, objects=objects
        )
        extents = [extent(each, entry.height, entry.width) for each in objects]
        size = self._image_size
        resized = resize_mask(mask, size, size, self._classes, box=around(box for _, box in extents))
        cv2.merge([*resized_channels(image, size, size), resized], self._record)
        self._write(task, self._record)
        foreground = resized if ignored is None else cv2.inRange(resized, 1, self._classes)
        picture = _png(foreground, resized) if self._classes == 1 else _coloured_png(resized)
        _write_file(f"{self._folder}/{task.split}_mask/{task.mask_name}", picture)
        example = Example(
            image_id=entry.id,
            file_name=task.file_name,
            height=entry.height,
            width=entry.width,
            sha256=sha256,
            mask=counts,
            ignore=ignored,
            group=task.group,
            areas=tuple(
                compare_areas(annotation.id, area, width, height, annotation.area)
                for annotation, (area, (_, _, width, height)) in zip(task.annotations, extents, strict=True)
            ),
            classes=tuple(run_lengths(mask == label) for label in self._labels()),
        )
        return Converted(example=example, foreground=cv2.countNonZero(foreground))

    @cached_property
    def _record(self) -> np.ndarray:
        """Where each record is put together: it stays in the processor's caches, as new memory would not."""
        return np.empty((self._image_size, self._image_size, 4), np.uint8)

    def _labels(self) -> range:
        """The classes that an example lists one by one: none, where its mask is the only one."""
        return range(1, self._classes + 1) if self._classes > 1 else range(0)

    def _decode(self, task: Task, data: bytes, sha256: str) -> np.ndarray:
        if task.sha256 not in ("", sha256):
            raise BrokenRule("changed_file", f"{task.path} changed while it was converted; convert again")
        try:
            with _decoder_lines():
                image = decode_image(data, exif=self._exif == "rotate", fit=(self._image_size, self._image_size))
            height, width = header_size(data)
        except UserError as error:
            raise BrokenRule("image_refused", str(error)) from None
        if (height > width) != (image.shape[0] > image.shape[1]):
            height, width = width, height  # EXIF rotation turned it
        if (height, width) != (task.image.height, task.image.width):
            raise BrokenRule(
                "size_disagrees",
                f"the annotations say {task.image.width}×{task.image.height}, the file is {width}×{height}",
            )
        return image

    def _write(self, task: Task, record: np.ndarray) -> None:
        # Not through a memory map: its page faults take longer than one write of the whole record.
        if task.split not in self._files:
            self._files[task.split] = os.open(self._folder / f"{task.split}.npy", os.O_WRONLY)
        offset = self._offsets[task.split] + task.row * record.nbytes
        rest = memoryview(record.data).cast("B")
        while rest:
            written = os.pwrite(self._files[task.split], rest, offset)
            rest, offset = rest[written:], offset + written


@cache
def _decoder_lines() -> DecoderLines:
    return DecoderLines()


os.register_at_fork(after_in_child=_decoder_lines.cache_clear)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        raise BrokenRule("unreadable_file", f"{path} cannot be read ({error.strerror})") from None


def _write_file(path: str, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        while data:
            data = data[os.write(file, data) :]
    finally:
        os.close(file)


def _png(foreground: np.ndarray, mask: np.ndarray) -> bytes:
    """A picture of a mask: foreground white, ignored grey; one bit a pixel where nothing is ignored."""
    if mask.max() < IGNORE:
        return bilevel_png(foreground)
    return cv2.imencode(".png", np.where(mask == IGNORE, np.uint8(IGNORED_GREY), foreground))[1].tobytes()


def bilevel_png(mask: np.ndarray) -> bytes:
    """A PNG of one bit a pixel, what is not 0 white; OpenCV takes four times as long to write the same picture.

    Args:
        mask: shape (height, width), uint8.
    """
    height, width = mask.shape
    rows = np.zeros((height, 1 + -(-width // 8)), np.uint8)  # each begins with the number of its filter: none
    rows[:, 1:] = np.packbits(mask, axis=1)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # grey of one bit, not interlaced
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b"")
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _coloured_png(mask: np.ndarray) -> bytes:
    """A picture of a mask of several classes, each in its colour; ignored grey."""
    return cv2.imencode(".png", coloured(mask)[..., ::-1])[1].tobytes()
