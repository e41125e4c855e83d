"""The demo dataset: a COCO export in Roboflow's layout, generated from a seed and as awkward as life.

Head-like slices of several patients, whose names stand in the file names; neighbouring slices are alike; no patient
is in two splits. Among the annotations: polygons, lesions of two parts, holes (as compressed and uncompressed run lengths), a
crowd region, two categories besides the super-category, and one stray speck. Among the images: some without a lesion,
several sizes, grey and colour, JPEG and PNG, one with an EXIF rotation.

The difficulty is chosen: lesions are brighter than the tissue around them, and so are the ventricles and the skull, so
that a threshold does not do; a small U-Net learns them in a few epochs.
"""

import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as pycoco

VERSION = 1  # raise it when the pictures change: a demo of another version is generated anew
MARK = "demo.json"
SLICES = 20  # per patient
PATIENTS = {"train": 11, "valid": 3, "test": 3}
SIZES = ((192, 192), (192, 192), (160, 192), (224, 208))  # height, width in pixels; a patient has one
CATEGORIES = ("lesion", "core", "rim")  # the first is the super-category, without annotations, as Roboflow exports it
DROP = {"core": 1, "rim": 2}


@dataclass(frozen=True)
class _Patient:
    """What stays the same from slice to slice; lengths are shares of the image's height."""

    number: int
    height: int
    width: int
    colour: bool
    tilt: float
    centre: tuple[float, float]
    radii: tuple[float, float]
    lesions: tuple["_Lesion", ...]


@dataclass(frozen=True)
class _Lesion:
    """An irregular blob that grows and shrinks over a range of slices.

    Attributes:
        x, y: place within the head, in shares of its radii.
        radius: largest, as a share of the image's height.
        first, last: slices.
        waves: amplitude and phase of the outline's second to fifth wave.
        category: id.
        hole: whether its middle is not part of it.
    """

    x: float
    y: float
    radius: float
    first: int
    last: int
    waves: tuple[tuple[float, float], ...]
    category: int
    hole: bool


def write_demo(folder: Path, *, seed: int = 0) -> None:
    """Generates the dataset in `folder`, unless this version of it is there already.

    It is generated beside the folder and renamed, so that a killed call leaves nothing that a later one would trust.
    """
    mark = {"version": VERSION, "seed": seed}
    try:
        if json.loads((folder / MARK).read_text(encoding="utf-8")) == mark:
            return
    except (OSError, ValueError):
        pass
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    number = 0
    for split, patients in PATIENTS.items():
        (partial / split).mkdir(parents=True)
        chosen = [_draw_patient(number + index, seed) for index in range(patients)]
        _write_split(partial / split, split, chosen, seed)
        number += patients
    (partial / MARK).write_text(json.dumps(mark), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _draw_patient(number: int, seed: int) -> _Patient:
    random = np.random.default_rng([seed, number])
    height, width = SIZES[number % len(SIZES)]
    lesions = []
    for index in range(int(random.integers(1, 3))):
        first = int(random.integers(0, 6))
        lesions.append(
            _Lesion(
                x=float(random.uniform(-0.5, 0.5)),
                y=float(random.uniform(-0.5, 0.5)),
                radius=float(random.uniform(0.10, 0.17)),
                first=first,
                last=first + int(random.integers(11, 16)),
                waves=tuple(
                    (float(random.uniform(0, 0.25 / wave)), float(random.uniform(0, 6.28))) for wave in range(2, 6)
                ),
                category=1 + index % 2,
                hole=bool(index == 0 and number % 3 == 1),
            )
        )
    return _Patient(
        number=number,
        height=height,
        width=width,
        colour=number % 4 == 2,
        tilt=float(random.uniform(-12, 12)),
        centre=(float(random.uniform(0.47, 0.53)), float(random.uniform(0.47, 0.53))),
        radii=(float(random.uniform(0.33, 0.38)), float(random.uniform(0.38, 0.43))),
        lesions=tuple(lesions),
    )


def _write_split(folder: Path, split: str, patients: list[_Patient], seed: int) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for patient in patients:
        for slice_number in range(SLICES):
            image_id = len(images)
            image, regions = _draw_slice(patient, slice_number, seed)
            name = f"patient{patient.number:02d}_slice{slice_number:02d}." + ("png" if patient.number % 2 else "jpg")
            # The first slice of the first patient is stored with a rotation that annotations know nothing of.
            _write_image(folder / name, image, rotated=patient.number == 0 and slice_number == 0)
            images.append({"id": image_id, "file_name": name, "height": patient.height, "width": patient.width})
            for lesion, region in regions:
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": image_id,
                        "category_id": lesion.category,
                        "iscrowd": 0,
                        **_describe(region, as_runs=lesion.hole, compressed=slice_number % 2 == 0),
                    }
                )
    _add_oddities(split, images, annotations)
    categories = [
        {"id": index, "name": name, "supercategory": "none" if index == 0 else CATEGORIES[0]}
        for index, name in enumerate(CATEGORIES)
    ]
    content = {
        "info": {"description": "Generated demo dataset", "version": str(VERSION)},
        "licenses": [{"id": 1, "name": "CC0 1.0"}],
        "categories": categories,
        "images": images,
        # Not in the order of the images, so that whoever pairs them by position is wrong.
        "annotations": annotations[::-1],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")


def _add_oddities(split: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    """A stray speck and a crowd region, both in the training split."""
    if split != "train":
        return
    height, width = images[5]["height"], images[5]["width"]
    speck = np.zeros((height, width), np.uint8)
    speck[3:5, 4:7] = 1
    corner = np.zeros((height, width), np.uint8)
    corner[height // 2 : height // 2 + 20, 8:28] = 1
    for region, crowd in ((speck, 0), (corner, 1)):
        annotations.append(
            {
                "id": len(annotations),
                "image_id": images[5]["id"],
                "category_id": 1,
                "iscrowd": crowd,
                **_describe(region, as_runs=bool(crowd), compressed=False),
            }
        )


def _draw_slice(patient: _Patient, number: int, seed: int) -> tuple[np.ndarray, list[tuple[_Lesion, np.ndarray]]]:
    """One slice: RGB, (height, width, 3) uint8, and the region of each lesion that it cuts."""
    random = np.random.default_rng([seed, patient.number, number])
    height, width = patient.height, patient.width
    along = number / (SLICES - 1)  # 0 at the neck, 1 at the crown
    size = 0.75 + 0.25 * np.sin(np.pi * (0.15 + 0.7 * along))
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    angle = np.radians(patient.tilt)
    right = (columns - patient.centre[0] * width) / height
    down = (rows - patient.centre[1] * height) / height
    x = (np.cos(angle) * right + np.sin(angle) * down) / (patient.radii[0] * size)
    y = (np.cos(angle) * down - np.sin(angle) * right) / (patient.radii[1] * size)
    distance = np.hypot(x, y)

    tissue = 78 + 16 * np.sin(5 * x + patient.number) * np.cos(4 * y - 2 * along)
    image = np.where(distance < 0.92, tissue, 0.0)
    image[(distance >= 0.92) & (distance < 1.0)] = 190  # skull
    for side in (-1, 1):  # ventricles: as bright as a lesion, but always in the middle
        ventricle = np.hypot((x - side * 0.12) / 0.09, (y + 0.05) / (0.30 * (1 - abs(along - 0.5))))
        image[ventricle < 1] = 150
    regions = []
    for lesion in patient.lesions:
        region = _region(lesion, number, x, y, height, patient.radii[1] * size) & (distance < 0.9)
        if region.sum() >= 40:
            image[region] = 165 + 14 * np.sin(9 * x + 7 * y)[region]
            regions.append((lesion, region.astype(np.uint8)))
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.8) + random.normal(0, 7, image.shape)
    grey = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if not patient.colour:
        return np.repeat(grey[..., None], 3, axis=2), regions
    return np.ascontiguousarray(cv2.applyColorMap(grey, cv2.COLORMAP_PINK)[..., ::-1]), regions


def _region(lesion: _Lesion, number: int, x: np.ndarray, y: np.ndarray, height: int, scale: float) -> np.ndarray:
    """The pixels of a lesion in a slice, bool; empty outside its slices."""
    if not lesion.first <= number <= lesion.last:
        return np.zeros(x.shape, bool)
    middle, half = (lesion.first + lesion.last) / 2, (lesion.last - lesion.first) / 2 + 0.5
    radius = lesion.radius * np.sqrt(1 - ((number - middle) / half) ** 2) / scale
    right, down = x - lesion.x, y - lesion.y
    direction = np.arctan2(down, right)
    outline = radius * (1 + sum(a * np.sin(wave * direction + b) for wave, (a, b) in enumerate(lesion.waves, 2)))
    away = np.hypot(right, down)
    region = away < outline
    if lesion.hole:
        region &= away > 0.35 * outline
    elif lesion.category == DROP["rim"]:
        region &= np.abs(right) > 0.12 * radius  # a cleft: two parts of one annotation
    return region


def _describe(region: np.ndarray, *, as_runs: bool, compressed: bool) -> dict[str, Any]:
    """A region as COCO has it: `segmentation`, `area` and `bbox` in pixels."""
    rows, columns = np.nonzero(region)
    left, top = int(columns.min()), int(rows.min())
    described: dict[str, Any] = {
        "area": float(region.sum()),
        "bbox": [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
    }
    if not as_runs:
        outlines, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        # Contours pass through pixel centres, COCO's polygons around pixels: half a pixel further.
        parts = [(outline.reshape(-1, 2) + 0.5).ravel().tolist() for outline in outlines if len(outline) >= 3]
        return described | {"segmentation": parts}
    runs = pycoco.encode(np.asfortranarray(region))
    if compressed:
        return described | {"segmentation": {"size": list(region.shape), "counts": runs["counts"].decode("ascii")}}
    flat = np.concatenate([[0], region.ravel(order="F"), [0]])
    edges = np.flatnonzero(np.diff(flat))
    lengths = np.diff(np.concatenate([[0], edges, [region.size]])).tolist()
    return described | {"segmentation": {"size": list(region.shape), "counts": lengths}}


def _write_image(path: Path, image: np.ndarray, *, rotated: bool) -> None:
    encoded = cv2.imencode(
        path.suffix, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix == ".jpg" else []
    )
    data = encoded[1].tobytes()
    if rotated:  # orientation 6: to be turned clockwise by who shows it
        entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
        body = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    path.write_bytes(data)
