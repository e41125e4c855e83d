"""`Corrections`: a COCO set of images whose masks a person has corrected, or whose results are wrong.

    FOLDER/train/_annotations.coco.json, and the images beside it: redrawn masks, which `convert` takes as `additional`
    FOLDER/wrong/_annotations.coco.json, the same: the masks that were marked as wrong, for an annotation tool

An image is in each of them once, and as the bytes that were given, so that `convert` knows it again.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from seg.data.audit.headers import read_header
from seg.data.coco import Category
from seg.data.coco_writer import CocoWriter, annotation_of
from seg.data.export import FOREGROUND
from seg.data.images import header_size
from seg.data.layout import ROBOFLOW_ANNOTATIONS
from seg.errors import UserError

REDRAWN, WRONG = "train", "wrong"
_CATEGORY = Category(id=1, name=FOREGROUND)
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif"}
_LONGEST = 60  # bytes of a file's stem


class Corrections:
    """The corrections in a folder; several processes may write to it.

    Args:
        folder: made by the first correction.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def redraw(self, content: bytes, name: str, mask: np.ndarray, notes: Mapping[str, Any]) -> Path:
        """Saves the mask that an image should have; it replaces an earlier one, and a mark as wrong.

        Args:
            content: the encoded file.
            name: of the file, for people.
            mask: shape (height, width) of the image as stored; what is not 0 is foreground.
            notes: kept with the annotation, ready for JSON.

        Returns:
            the image in the set.

        Raises:
            UserError: if the mask has another size, the image an EXIF rotation, the folder cannot be written, or what
                is in it is no COCO file.
        """
        with self._locked():
            path = self._put(REDRAWN, content, name, mask, notes)
            self._remove(WRONG, content)
        return path

    def mark_wrong(self, content: bytes, name: str, mask: np.ndarray, notes: Mapping[str, Any]) -> Path:
        """Notes that a predicted mask is wrong; the arguments are those of `redraw`, with the mask as predicted."""
        with self._locked():
            return self._put(WRONG, content, name, mask, notes)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise UserError(f"corrections must be a folder that can be written, got {self.folder} ({error}).") from None

    def _put(self, part: str, content: bytes, name: str, mask: np.ndarray, notes: Mapping[str, Any]) -> Path:
        height, width = header_size(content)
        if read_header(content).orientation != 1:
            # Whether the mask is of the image as stored or as turned would hang on how it is converted one day.
            raise UserError(f"a correction needs an image without EXIF rotation, {name} has one; save it turned.")
        if mask.shape != (height, width):
            raise UserError(f"a mask must have the size of its image, {height}×{width}, got {mask.shape}; redraw it.")
        entries = self._entries(part)
        digest = _digest(content)
        annotation: dict[str, Any] | None = None
        if mask.any():
            annotation = annotation_of(mask, image_id=0, category_id=_CATEGORY.id) | dict(notes)
        entry: dict[str, Any] = {"file_name": _file_name(content, name), "height": height, "width": width}
        path = self.folder / part / entry["file_name"]
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{digest}.partial.{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(path)
        self._write(part, [*_without(entries, digest), (entry, annotation)])
        self._delete_images(part, entries, digest, keep=path)
        return path

    def _remove(self, part: str, content: bytes) -> None:
        entries = self._entries(part)
        digest = _digest(content)
        if len(_without(entries, digest)) < len(entries):
            self._write(part, _without(entries, digest))
            self._delete_images(part, entries, digest)

    def _delete_images(self, part: str, entries: "_Entries", digest: str, keep: Path | None = None) -> None:
        for entry, _ in entries:
            path = self.folder / part / Path(entry["file_name"]).name
            if path != keep and _is_of(entry, digest):
                path.unlink(missing_ok=True)

    def _entries(self, part: str) -> "_Entries":
        """The images of a part, each with its annotation or None."""
        path = self.folder / part / ROBOFLOW_ANNOTATIONS
        if not path.exists():
            return []
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            annotations = {annotation["image_id"]: annotation for annotation in found["annotations"]}
            return [
                ({key: image[key] for key in ("file_name", "height", "width")}, annotations.get(image["id"]))
                for image in found["images"]
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} must be a COCO file of corrections, got {error!r}; move it away.") from None

    def _write(self, part: str, entries: "_Entries") -> None:
        path = self.folder / part / ROBOFLOW_ANNOTATIONS
        with CocoWriter(path, categories=[_CATEGORY], info={"description": f"corrections: {part}"}) as writer:
            for image_id, (entry, annotation) in enumerate(entries, start=1):
                writer.add_image(image_id, entry["file_name"], height=entry["height"], width=entry["width"])
                if annotation is not None:
                    writer.add_annotation(annotation | {"id": image_id, "image_id": image_id})


_Entries = list[tuple[dict[str, Any], dict[str, Any] | None]]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _file_name(content: bytes, name: str) -> str:
    """A name that no other image has, whatever people call their files."""
    stem = re.sub(r"[^\w-]+", "_", Path(name).stem)
    stem = stem.encode()[:_LONGEST].decode(errors="ignore")  # file systems count bytes; half a letter is dropped
    return f"{stem}-{_digest(content)}{_SUFFIXES.get(content[:2], '.png')}"


def _is_of(entry: Mapping[str, Any], digest: str) -> bool:
    return Path(entry["file_name"]).stem.endswith(f"-{digest}")


def _without(entries: _Entries, digest: str) -> _Entries:
    return [(entry, annotation) for entry, annotation in entries if not _is_of(entry, digest)]
