"""A generated COCO export that is as awkward as real ones, small enough to write in seconds, and learnable.

Head-like slices of made-up patients: a skull around tissue with dark ventricles, and lesions that grow and shrink from
slice to slice. Neighbouring slices are alike, and a patient is in one split only. Roboflow's layout.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as pycoco

from seg.data.layout import ROBOFLOW_ANNOTATIONS

SLICES = 10  # per patient
PATIENTS = {"train": 20, "valid": 5, "test": 5}
CATEGORIES = [
    {"id": 0, "name": "lesion", "supercategory": "none"},  # as Roboflow writes it: a parent that nothing refers to
    {"id": 1, "name": "tumor", "supercategory": "lesion"},
    {"id": 2, "name": "cyst", "supercategory": "lesion"},
]
_SIZES = ((192, 192), (160, 192), (208, 176), (256, 256), (160, 160))  # height, width in pixels
_LESION_FREE = (0, SLICES - 1)  # the slices above and below the lesion
_EXIF_PATIENT = 1
_CROWD_PATIENT = 2
_STRAY_PATIENT = 3


def write_demo(
    folder: Path,
    *,
    seed: int = 0,
    train: int = PATIENTS["train"],
    valid: int = PATIENTS["valid"],
    test: int = PATIENTS["test"],
) -> None:
    """Writes the demo export; the same arguments give the same bytes.

    What is awkward in it: polygons, two-part polygons, rings as compressed and as uncompressed run lengths, a crowd
    region, images without a lesion, a category without annotations, a stray annotation, an image with EXIF rotation,
    several sizes, grey and colour, PNG and JPEG, image ids that restart in each split.

    Args:
        folder: becomes the export; created if need be.
        seed: of everything random.
        train, valid, test: patients in the split, of ten slices each.
    """
    first = 1
    for split, patients in (("train", train), ("valid", valid), ("test", test)):
        _write_split(folder / split, range(first, first + patients), seed)
        first += patients


def _write_split(folder: Path, patients: range, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in patients:
        patient = _Patient.draw(number, np.random.default_rng([seed, number]))
        for index in range(SLICES):
            name = f"patient{number:02d}_slice{index:03d}{patient.suffix}"
            picture, found = patient.slice(index)
            (folder / name).write_bytes(_encode(picture, patient, index))
            height, width = picture.shape[:2]
            identity = len(images)
            images.append({"id": identity, "file_name": name, "height": height, "width": width})
            for annotation in found:
                annotations.append({"id": len(annotations), "image_id": identity, **annotation})
    # Annotations stand in another order than their images: pairing them by position pairs them wrongly.
    annotations.sort(key=lambda annotation: (annotation["id"] % 3, annotation["id"]))
    content = {
        "info": {"description": "Generated demo dataset: head-like slices with lesions"},
        "categories": CATEGORIES,
        "images": images,
        "annotations": annotations,
    }
    (folder / ROBOFLOW_ANNOTATIONS).write_text(json.dumps(content), encoding="utf-8")


@dataclass(frozen=True)
class _Patient:
    """What all slices of a patient share. Positions and radii are in units of half the image's height and width."""

    number: int
    rng: np.random.Generator
    height: int
    width: int
    colour: bool
    centre: tuple[float, float]
    radius: float
    wobble: np.ndarray
    contrast: float
    brightness: float
    ventricle: float

    @classmethod
    def draw(cls, number: int, rng: np.random.Generator) -> "_Patient":
        height, width = _SIZES[number % len(_SIZES)]
        angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.42)
        return cls(
            number=number,
            rng=rng,
            height=height,
            width=width,
            colour=number % 3 == 0,
            centre=(distance * math.cos(angle), distance * math.sin(angle)),
            radius=rng.uniform(0.2, 0.3),
            wobble=rng.uniform(-0.12, 0.12, size=3),
            contrast=rng.uniform(55, 85),
            brightness=rng.uniform(80, 115),
            ventricle=rng.uniform(0.09, 0.14),
        )

    @property
    def suffix(self) -> str:
        return ".jpg" if self.number % 2 else ".png"

    @property
    def form(self) -> str:
        """How the patient's lesions are annotated."""
        return ("polygon", "parts", "ring_compressed", "polygon", "ring_runs")[self.number % 5]

    def slice(self, index: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """The picture, (height, width) or (height, width, 3) BGR, and its annotations without ids."""
        through = math.sin(math.pi * index / (SLICES - 1))  # 0 at both ends of the head, 1 in its middle
        grey = self._head(through)
        found = []
        if index not in _LESION_FREE:
            parts = self._outlines(0.55 + 0.45 * through)
            counts = _region(parts, self.height, self.width, self.form)
            lesion = pycoco.decode(counts).astype(np.float32)
            grey += self.contrast * cv2.GaussianBlur(lesion, (0, 0), 0.8)
            found.append(self._annotation(parts, counts))
        if self.number == _CROWD_PATIENT and index == 5:
            found.append(self._box(0.35, 0.55, 0.2, 0.15, crowd=True))
        if self.number == _STRAY_PATIENT and index == 4:
            found.append(self._box(-0.5, -0.55, 0.02, 0.05, crowd=False))
        grey += self.rng.normal(0, 7, grey.shape)
        picture = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        if not self.colour:
            return picture, found
        tint = np.array([0.92, 1.0, 0.96])
        return np.rint(picture[..., None] * tint).astype(np.uint8), found

    def _head(self, through: float) -> np.ndarray:
        x, y = np.meshgrid(np.linspace(-1, 1, self.width), np.linspace(-1, 1, self.height))
        size = 0.78 + 0.12 * through
        distance = np.hypot(x / size, y / (size * 1.04))
        grey = np.where(distance < 1, self.brightness, 8.0)
        grey += 90 * np.exp(-(((distance - 0.97) / 0.04) ** 2))  # skull, about as bright as a lesion
        grey += 8 * np.sin(5 * x + self.number) * np.cos(4 * y - self.number) * (distance < 1)  # uneven tissue
        for side in (-1, 1):
            ventricle = ((x - side * 0.14) / self.ventricle) ** 2 + (y / (2.2 * self.ventricle)) ** 2
            grey -= 45 * through * np.exp(-(ventricle**2))
        return grey

    def _outlines(self, scale: float) -> list[list[float]]:
        """Closed outlines in pixels: one lesion, two beside each other, or an outer and an inner for a ring."""
        radius = self.radius * scale
        if self.form == "parts":
            offset = 0.75 * radius
            return [
                self._outline(self.centre[0] - offset, self.centre[1] - offset, 0.75 * radius),
                self._outline(self.centre[0] + offset, self.centre[1] + offset, 0.75 * radius),
            ]
        outlines = [self._outline(*self.centre, radius)]
        if self.form.startswith("ring"):
            outlines.append(self._outline(*self.centre, 0.35 * radius))
        return outlines

    def _outline(self, x: float, y: float, radius: float) -> list[float]:
        angles = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        waves = sum(wave * np.sin((number + 2) * angles) for number, wave in enumerate(self.wobble))
        radii = radius * (1 + waves)
        xs = (x + radii * np.cos(angles) + 1) * self.width / 2
        ys = (y + radii * np.sin(angles) + 1) * self.height / 2
        return [round(float(number), 2) for number in np.stack([xs, ys], axis=1).ravel()]

    def _annotation(self, parts: list[list[float]], counts: dict[str, Any]) -> dict[str, Any]:
        segmentation: Any = parts
        if self.form == "ring_compressed":
            segmentation = {"size": counts["size"], "counts": counts["counts"].decode("ascii")}
        elif self.form == "ring_runs":
            segmentation = {"size": counts["size"], "counts": _runs(pycoco.decode(counts))}
        return _entry(1 + self.number % 2, segmentation, counts, crowd=False)

    def _box(self, x: float, y: float, width: float, height: float, *, crowd: bool) -> dict[str, Any]:
        left, right = (x + 1) * self.width / 2, (x + width + 1) * self.width / 2
        top, bottom = (y + 1) * self.height / 2, (y + height + 1) * self.height / 2
        corners = [round(number, 2) for number in (left, top, right, top, right, bottom, left, bottom)]
        counts = _region([corners], self.height, self.width, "polygon")
        segmentation: Any = [corners]
        if crowd:
            segmentation = {"size": counts["size"], "counts": _runs(pycoco.decode(counts))}
        return _entry(1, segmentation, counts, crowd=crowd)


def _region(parts: list[list[float]], height: int, width: int, form: str) -> dict[str, Any]:
    outlines = pycoco.frPyObjects(parts, height, width)
    if form.startswith("ring"):
        outer, inner = (pycoco.decode(outline) for outline in outlines)
        return pycoco.encode(np.asfortranarray(outer & ~inner & 1))
    return pycoco.merge(outlines)


def _entry(category: int, segmentation: Any, counts: dict[str, Any], *, crowd: bool) -> dict[str, Any]:
    return {
        "category_id": category,
        "segmentation": segmentation,
        "area": float(pycoco.area(counts)),
        "bbox": [float(number) for number in pycoco.toBbox(counts)],
        "iscrowd": int(crowd),
    }


def _runs(mask: np.ndarray) -> list[int]:
    """Uncompressed run lengths down the columns, beginning with background."""
    flat = np.concatenate([[0], mask.ravel(order="F")])
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]])
    return [int(run) for run in np.diff(starts)]


def _encode(picture: np.ndarray, patient: _Patient, index: int) -> bytes:
    if patient.suffix == ".png":
        return cv2.imencode(".png", picture)[1].tobytes()
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    if patient.number == _EXIF_PATIENT and index == 3:
        return data[:2] + _exif_orientation(6) + data[2:]
    return data


def _exif_orientation(orientation: int) -> bytes:
    """A JPEG segment that asks viewers to rotate the picture; 6 is a quarter turn clockwise."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    body = b"Exif\0\0" + b"MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
