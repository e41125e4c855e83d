"""Masks and overlays of any number of files into one folder; the same call again does only what is missing.

What is done is decided by content: the hashes of the model, the options, the image and the two pictures. The files go
through the model in batches that do not depend on what is done already, because the last digits of a probability
depend on the batch: a call that was interrupted and repeated leaves the same bytes as one that was not.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import cv2
from tqdm import tqdm

from experiments.prediction.prediction_journal import PredictionJournal, Record
from seg import overlay
from seg.data.any_image import read_file
from seg.data.images import decode_image
from seg.errors import UserError
from seg.inference import SETTINGS, Prediction, Predictor

JOURNAL = ".predictions.jsonl"
MASKS, OVERLAYS = "masks", "overlays"
_PARTIAL = ".partial.png"  # one at a time; a name with the picture's own in it may be too long
_LONGEST = 200  # bytes of a picture's stem; file systems allow 255 of a whole name
_BAR_AFTER = 2  # seconds


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """Everything but the image that decides about a prediction.

    Attributes:
        model: hash of the model's files; see `hash_model`.
        threshold: probability from which on a pixel is foreground; None of several classes.
        tta, largest_component: see `seg.inference`.
        segmentation: `rle` or `polygon`, of the COCO results.
    """

    model: str
    threshold: float | None
    tta: str
    segmentation: str
    largest_component: str = "no"

    @property
    def key(self) -> str:
        """Equal for equal settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PredictedFile:
    """One file and what became of it.

    Attributes:
        path: of the image.
        name: of its pictures in `masks` and `overlays`.
        record: `height`, `width`, `area`, `bbox`, `confidence`, `unlike` and `segmentation` as `Prediction` has
            them, and of several classes, `classes`, a list of the `area`, `bbox`, `confidence` and `segmentation` of
            each; or `error`, why it could not be predicted.
    """

    path: Path
    name: str
    record: Record


# Path, name, and the hash or why the file cannot be read: the contents of thousands would fill the memory.
_Found = tuple[Path, str, str | UserError]


@dataclass(frozen=True)
class _Image:
    path: Path
    name: str
    content: bytes
    sha256: str


def hash_model(file: Path) -> str:
    """SHA-256 of a `.keras` file and of the settings beside it: the threshold, and what training images look like."""
    settings = file.with_name(SETTINGS)
    contents = [file.read_bytes(), settings.read_bytes() if settings.is_file() else b""]
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()


def open_output(output: Path, settings: PredictionSettings) -> PredictionJournal:
    """Makes the folders, holds them against other processes, and removes what a killed one was writing.

    Raises:
        UserError: if `output` cannot be written, or another process is predicting into it.
    """
    try:
        for folder in (output / MASKS, output / OVERLAYS):
            folder.mkdir(parents=True, exist_ok=True)
        journal = PredictionJournal(output / JOURNAL, settings.key)
    except OSError as error:
        raise UserError(f"output must be a folder that can be written, got {output} ({error.strerror}).") from None
    for partial in output.glob(f"*/{_PARTIAL}"):
        partial.unlink()
    return journal


def predict_files(
    predictor: Predictor, paths: Sequence[Path], output: Path, settings: PredictionSettings, journal: PredictionJournal
) -> Iterator[PredictedFile]:
    """Writes a mask and an overlay per file, in bounded memory.

    Args:
        predictor: the model.
        paths: of the images.
        output: folder that was opened.
        settings: whose `threshold`, `tta`, `largest_component` and `segmentation` hold.
        journal: of the folder; open while the returned elements are read.

    Returns:
        what became of each file, in order.

    Raises:
        UserError: if a picture cannot be written.
    """
    found: list[_Found] = []
    named = zip(paths, output_names(paths), strict=True)
    with tqdm(total=len(paths), unit="image", delay=_BAR_AFTER) as bar:
        while batch := [_read(path, name) for path, name in islice(named, predictor.batch_size)]:
            images = [image for image in batch if isinstance(image, _Image)]
            _predict_batch(predictor, images, output, settings, journal)
            found += [(file.path, file.name, file.sha256) if isinstance(file, _Image) else file for file in batch]
            bar.update(len(batch))
    return (PredictedFile(path, name, _recorded(image, name, journal)) for path, name, image in found)


def output_names(paths: Sequence[Path]) -> list[str]:
    """One PNG name per file: its stem, cut to `_LONGEST` bytes, and a number where another has that name already."""
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = _cut(path.stem)
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names.append(f"{name}.png")
    return names


def _cut(stem: str) -> str:
    encoded = os.fsencode(stem)
    # Half a letter at the end is dropped; other bytes that are no text only occur in short names as they are.
    return stem if len(encoded) <= _LONGEST else encoded[:_LONGEST].decode("utf-8", "ignore")


def _recorded(image: str | UserError, name: str, journal: PredictionJournal) -> Record:
    record = {"error": str(image)} if isinstance(image, UserError) else journal.find(name, image)
    assert record is not None  # `_predict_batch` leaves one of every image
    return record


def _read(path: Path, name: str) -> _Image | _Found:
    try:
        content = read_file(path)
    except UserError as error:
        return path, name, error
    return _Image(path, name, content, hashlib.sha256(content).hexdigest())


def _predict_batch(
    predictor: Predictor,
    batch: Sequence[_Image],
    output: Path,
    settings: PredictionSettings,
    journal: PredictionJournal,
) -> None:
    """Predicts a whole batch if one of its images is not done, and keeps what is new."""
    missing = {
        image.name for image in batch if not _is_done(journal.find(image.name, image.sha256), output, image.name)
    }
    if not missing:
        return
    contents = [image.content for image in batch]
    options = settings.threshold, settings.tta, settings.largest_component
    predictions = predictor.predict_many(contents, *options)
    for image, prediction in zip(batch, predictions, strict=True):
        if image.name in missing:
            journal.add(
                image.name, image.sha256, _keep(image, prediction, output, settings.segmentation, predictor.exif)
            )


def _is_done(record: Record | None, output: Path, name: str) -> bool:
    if record is None:
        return False
    try:
        return all(
            hashlib.sha256((output / folder / name).read_bytes()).hexdigest() == digest
            for folder, digest in record.get("pictures", {}).items()
        )
    except OSError:
        return False


def _keep(image: _Image, prediction: Prediction | UserError, output: Path, segmentation: str, exif: str) -> Record:
    """Writes the pictures; returns what the journal shall know."""
    try:
        if isinstance(prediction, UserError):
            raise prediction
        picture = decode_image(
            image.content, exif=exif == "rotate"
        )  # the model may have read a JPEG at a half of its size
    except UserError as error:
        for folder in (MASKS, OVERLAYS):  # of an image that was there before under this name
            (output / folder / image.name).unlink(missing_ok=True)
        return {"error": str(error)}
    laid = overlay.overlay(picture, prediction.mask)
    several = len(prediction.classes) > 1
    mask = prediction.mask if several else prediction.mask * 255
    pictures = {MASKS: mask, OVERLAYS: cv2.cvtColor(laid, cv2.COLOR_RGB2BGR)}
    height, width = prediction.mask.shape
    return {
        "height": height,
        "width": width,
        "unlike": prediction.unlike,
        **_found(prediction, segmentation),
        **({"classes": [_found(each, segmentation) for each in prediction.by_class().values()]} if several else {}),
        "pictures": {folder: _write_png(output / folder / image.name, pixels) for folder, pixels in pictures.items()},
    }


def _found(prediction: Prediction, segmentation: str) -> Record:
    return {
        "area": prediction.area,
        "bbox": prediction.bbox,
        "confidence": prediction.confidence,
        "segmentation": prediction.segmentation(segmentation),
    }


def _write_png(path: Path, pixels: cv2.typing.MatLike) -> str:
    """Writes beside the final place and renames, so that no reader meets half a picture; returns the bytes' hash."""
    encoded = cv2.imencode(".png", pixels)[1].tobytes()
    partial = path.with_name(_PARTIAL)
    try:
        partial.write_bytes(encoded)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another --output.") from None
    return hashlib.sha256(encoded).hexdigest()
