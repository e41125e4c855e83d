"""`Manifest`: what a converted dataset is, and how its records are read.

A converted dataset is one folder, named by its key:

    manifest.json          written last: a folder without it is not a dataset
    train.npy              records of the split, shape (examples, image_size, image_size, 4), uint8:
                           channels 0-2 the RGB image, channel 3 the mask (0 background, 1 foreground,
                           or 1, 2, … the class; 255 ignored), so that an image and its mask are never apart
    train.jsonl            one `Example` per line, in the order of the records
    train_mask/NAME.png    the masks to look at (0, 255; ignored 128; several classes in colours), named after
                           their images
    val..., test...        the same for the other splits
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from seg.data.certificate import AnnotationArea, AreaCertificate
from seg.errors import UserError

FORMAT = 2
SPLITS = ("train", "val", "test")
IGNORE = 255
MANIFEST = "manifest.json"
BINARY_CLASSES = ("foreground",)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image and its mask, as they were before conversion.

    Attributes:
        image_id: the id in the COCO file of its split.
        file_name: relative to the export's folder, with forward slashes.
        height, width: the stored image's own size, in pixels.
        sha256: of the image file's bytes.
        mask: compressed COCO RLE (`counts`) of the foreground at the own size.
        ignore: the same for the pixels that neither loss nor score sees, None where there are none.
        group: examples of one group stay on one side of a split; None where no group is known.
        areas: of each annotation of the used categories, rasterised and as the file states it.
        classes: compressed COCO RLE of each class, whose union is `mask`; empty where there is one class alone.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    sha256: str
    mask: str
    ignore: str | None = None
    group: str | None = None
    areas: tuple[AnnotationArea, ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """Counts of one split.

    Attributes:
        examples: images in the split.
        empty: images without a foreground pixel at the training size.
        foreground: share of all pixels at the training size that are foreground, in [0, 1].
        key: hash of the split's images and own-size masks; equal keys mean that scores may be compared,
            whatever image_size they were trained at.
    """

    examples: int
    empty: int
    foreground: float
    key: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a converted dataset; read it with `Manifest.load`.

    Attributes:
        folder: where the dataset lies (not stored in the file).
        key: content hash of images, annotations, conversion settings and converter version.
        name: the export's folder name, for people.
        image_size: side of the records, in pixels.
        split: how the examples were divided: `official` is the export's own division.
        settings: the conversion's other choices, as given.
        categories: each category of the export: `id`, `name`, `annotations` (count), `used` (bool).
        splits: by name, in the order train, val, test.
        left_out: what was not converted: dicts with `split`, `file_name`, `annotation_id`, `rule`, `message`.
        areas: whether the annotations cover what their files state.
        classes: names of the classes that a pixel can be of, beside background; class `k` is mask value `k`. One, of
            whatever name, is a binary dataset.
    """

    folder: Path
    key: str
    name: str
    image_size: int
    split: str
    settings: dict[str, Any]
    categories: list[dict[str, Any]]
    splits: dict[str, SplitSummary]
    left_out: list[dict[str, Any]]
    areas: AreaCertificate = field(default_factory=AreaCertificate)
    classes: tuple[str, ...] = BINARY_CLASSES

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Reads the manifest of a converted dataset and checks that its record files are whole.

        Raises:
            UserError: if the folder holds no finished dataset of this format.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{folder} is not a converted dataset (no {MANIFEST}); run convert.") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete {folder} and run convert.") from None
        known = {attribute.name for attribute in fields(cls)} - {"folder", "classes"}
        classes = content.pop("classes", BINARY_CLASSES) if isinstance(content, dict) else ()
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT or set(content) != known:
            raise UserError(f"{path} was written by another version; delete {folder} and run convert.")
        splits = {name: SplitSummary(**summary) for name, summary in content.pop("splits").items()}
        areas = AreaCertificate(**content.pop("areas"))
        manifest = cls(folder=folder, splits=splits, areas=areas, classes=tuple(classes), **content)
        for split, summary in splits.items():
            shape = (summary.examples, manifest.image_size, manifest.image_size, 4)
            try:
                found = manifest.records(split).shape
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{folder / split}.npy is damaged ({error}); delete {folder} and run convert."
                ) from None
            if found != shape:
                raise UserError(
                    f"{folder / split}.npy has shape {found}, not {shape}; delete {folder} and run convert."
                )
        return manifest

    def save(self) -> None:
        """Writes manifest.json beside the records: under another name first, then renamed."""
        content = {"format": FORMAT} | {key: value for key, value in asdict(self).items() if key != "folder"}
        if self.classes == BINARY_CLASSES:
            del content["classes"]  # the file of a binary dataset is as it was before there were classes
        partial = self.folder / f".{MANIFEST}.partial"
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        partial.replace(self.folder / MANIFEST)

    def records(self, split: str) -> np.ndarray:
        """The records of a split, shape (examples, image_size, image_size, 4), uint8, mapped from the file."""
        return np.load(self.folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)

    def examples(self, split: str) -> Iterator[Example]:
        """The examples of a split, in the order of its records."""
        with (self.folder / f"{split}.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                stored = json.loads(line)
                areas = tuple(AnnotationArea(*area) for area in stored.pop("areas"))
                yield Example(**stored | {"areas": areas, "classes": tuple(stored.get("classes", ()))})


def is_foreground(masks: np.ndarray) -> np.ndarray:
    """Where masks have a class, whichever it is; bool of the same shape."""
    return (masks != 0) & (masks != IGNORE)
