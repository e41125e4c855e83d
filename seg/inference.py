"""`Predictor`: any image to a mask at the image's own size. Travels with the registered model.

    import seg
    model = seg.load("FOLDER")
    mask = model.predict("image.jpg").mask

Keras, and TensorFlow with it, are imported when a model is loaded, not before: who only describes or registers a
model need not wait for them.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg.data.any_image import Image, read_image
from seg.data.appearance import Appearance, Traits, measure_image
from seg.data.coco_writer import annotation_of
from seg.data.images import EXIF, resize_image, resize_probability
from seg.data.manifest import BINARY_CLASSES
from seg.decision import check_largest_component, decide
from seg.errors import UserError
from seg.symmetries import symmetries

MODEL = "model.keras"
SETTINGS = "settings.json"
_IN_MLFLOW_MODEL = Path("artifacts") / "model"
_DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Prediction:
    """The mask of one image, at the image's own size.

    Attributes:
        mask: (height, width) uint8; 1 where `probability >= threshold`, else 0. Of several classes, each pixel has the
            one with the highest probability, from 1 on in the order of `classes`; 0 is background. With
            `largest_component`, less of both.
        probability: of foreground, whichever class it is, (height, width) float32 in [0, 1].
        threshold: probability from which on a pixel is foreground; None of several classes.
        confidence: mean probability of foreground over the mask's pixels; of an empty mask, 1 - the largest
            probability. In [0, 1].
        unlike: why the image is unlike the training images, one line each; empty where it is alike, or where the
            model does not know its training images. See `seg.data.appearance`.
        classes: their names.
        class_probabilities: of several classes, those of background and each, (height, width, 1 + classes) float32.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]
    threshold: float | None
    confidence: float
    unlike: tuple[str, ...] = ()
    classes: tuple[str, ...] = BINARY_CLASSES
    class_probabilities: NDArray[np.float32] | None = None

    def by_class(self) -> "dict[str, Prediction]":
        """What there is of each class alone, by its name, its mask of 0 and 1; of one class, the prediction itself."""
        if self.class_probabilities is None:
            return {self.classes[0]: self}
        found = {}
        for label, name in enumerate(self.classes, start=1):
            mask, probability = self.mask == label, self.class_probabilities[..., label]
            found[name] = Prediction(
                mask=mask.view(np.uint8),
                probability=probability,
                threshold=None,
                confidence=_confidence(mask, probability),
                unlike=self.unlike,
                classes=(name,),
            )
        return found

    @property
    def area(self) -> int:
        """Pixels of the mask that are not background."""
        return int(np.count_nonzero(self.mask))

    @property
    def bbox(self) -> tuple[int, int, int, int] | None:
        """The mask's box as left, top, width, height in pixels; None where the mask is empty."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return None
        left, top = int(columns[0]), int(rows[0])
        return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top

    def segmentation(self, form: str = "rle") -> Any:
        """The foreground as a COCO `segmentation`, ready for JSON; it gives the mask back pixel for pixel.

        Of several classes, `by_class` has that of each.

        Args:
            form: `rle`: compressed run lengths, `{"size": [height, width], "counts": text}`; or `polygon`: outlines
                `[[x1, y1, x2, y2, …], …]` in pixels, none for an empty mask.

        Raises:
            UserError: if there is no such form.
        """
        return annotation_of(self.mask, image_id=0, category_id=0, segmentation=form)["segmentation"]


@dataclass(frozen=True)
class _Read:
    """An image that is ready for the model: its picture at the training size, and what was measured of it."""

    picture: NDArray[np.uint8]
    traits: Traits


class Predictor:
    """A trained model with the preparation of its images; load it with `seg.load`.

    Args:
        model: Keras model from (batch, image_size, image_size, 3) with values 0…255 to logits
            (batch, image_size, image_size, 1), or of background and several classes.
        threshold: probability from which on a pixel is foreground, unless a call says otherwise; of several classes
            there is none.
        tta: test-time augmentation, likewise; the threshold was tuned with it.
        largest_component: `yes`, of each class only the largest connected component stays; or `no`; likewise.
        classes: their names; None: the only one is foreground, and several are called by their numbers.
        batch_size: images that go through the model together.
        training_images: what they look like; None where that is not known.
        exif: `rotate`: files are turned as their EXIF data asks, as the training images were; `ignore`: they are not.

    Attributes:
        image_size: side of the images that the model takes, in pixels.
        engine: what computes the model, `OpenVINO` or `TensorFlow`.
        threshold, batch_size, training_images, exif, tta, largest_component, classes: as given, or what that means.
    """

    def __init__(
        self,
        model: Any,
        threshold: float | None = None,
        batch_size: int = 8,
        training_images: Appearance | None = None,
        exif: str = EXIF[0],
        tta: str = "none",
        largest_component: str = "no",
        classes: Sequence[str] | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}; use 8.")
        from seg.serving_graph import serving_graph

        self._logits = serving_graph(model)
        self.engine = self._logits.engine
        self.batch_size = batch_size
        self.classes = _named(int(model.output_shape[-1]), classes)
        default = _DEFAULT_THRESHOLD if len(self.classes) == 1 else None
        self.threshold = self.checked(default if threshold is None else threshold)
        self.training_images = training_images
        if exif not in EXIF:
            raise UserError(f"exif must be one of {', '.join(EXIF)}, got '{exif}'.")
        self.exif = exif
        symmetries(tta)
        self.tta = tta
        self.largest_component = check_largest_component(largest_component)
        self.image_size = int(model.input_shape[1])

    @classmethod
    def load(cls, path: Path | str, batch_size: int = 8) -> "Predictor":
        """Reads a model in Keras's safe mode, which refuses a file that carries code.

        Args:
            path: a folder with `model.keras` and, beside it, `settings.json` (`threshold`; `training_images` as
                `Appearance.to_json` gives it; `exif`, `tta`, `largest_component` and `classes`; without the file, 0.5,
                unknown and the defaults); a `.keras` file; or the folder of a registered model that was downloaded.
            batch_size: images that go through the model together.

        Raises:
            UserError: if there is no such model, or if it cannot be read.
        """
        file = _find_model(Path(path))
        settings = _read_settings(file.with_name(SETTINGS))
        import keras

        try:
            model = keras.models.load_model(file, compile=False, safe_mode=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"{file} must be a Keras model that loads in safe mode, got: {reason}") from None
        return cls(model, batch_size=batch_size, **settings)

    def predict(
        self,
        image: Image,
        threshold: float | None = None,
        tta: str | None = None,
        largest_component: str | None = None,
    ) -> Prediction:
        """The mask of one image.

        Args:
            image: a path; base64 or a `data:` URL; the bytes of a JPEG, PNG, BMP or TIFF file; a Pillow image; or an
                array (height, width[, channels]) of uint8, uint16, bool or floating point in [0, 1].
            threshold: probability from which on a pixel is foreground; None: the model's own. Of several classes
                there is none: the one with the highest probability wins.
            tta: test-time augmentation. `none`: the image as it is. `flips`: the mean probability of the image and its
                three mirror images, in four times the time. `square`: of all eight symmetries of the square. None: the
                model's own.
            largest_component: `yes`: of each class only its largest connected component stays. `no`: all stay. None:
                the model's own.

        Raises:
            UserError: if the image cannot be read, or an option is none of these.
        """
        found = next(self.predict_many([image], threshold, tta, largest_component))
        if isinstance(found, UserError):
            raise found
        return found

    def predict_many(
        self,
        images: Iterable[Image],
        threshold: float | None = None,
        tta: str | None = None,
        largest_component: str | None = None,
    ) -> Iterator[Prediction | UserError]:
        """The masks of many images of any kinds and sizes; one batch is held in memory at a time.

        Args:
            images: a list, a generator, …; or one array (images, height, width, channels).
            threshold, tta, largest_component: as in `predict`.

        Returns:
            one element per image, in order. An image that cannot be read gives its UserError and costs no other.

        Raises:
            UserError: at once, if an option is wrong or `images` is one image.
        """
        threshold = self.threshold if threshold is None else self.checked(threshold)
        tta = self.tta if tta is None else tta
        symmetries(tta)
        largest = check_largest_component(self.largest_component if largest_component is None else largest_component)
        if isinstance(images, (str, bytes, Path)) or (isinstance(images, np.ndarray) and images.ndim != 4):
            raise UserError(
                "predict_many takes a list of images, or one array (images, height, width, channels); "
                "give one image to predict, or put it into a list."
            )
        return self._predict_many(iter(images), threshold, tta, largest)

    def checked(self, threshold: float | None) -> float | None:
        """The threshold itself.

        Raises:
            UserError: if it is none, or there are several classes, which have none.
        """
        if len(self.classes) > 1 and threshold is not None:
            raise UserError(
                f"threshold must not be given to a model of {len(self.classes)} classes, of which the one with the "
                f"highest probability wins, got {threshold}; leave it out."
            )
        return None if threshold is None else _checked(threshold)

    def _predict_many(
        self, images: Iterator[Image], threshold: float | None, tta: str, largest: str
    ) -> Iterator[Prediction | UserError]:
        while batch := [self._read(image) for image in islice(images, self.batch_size)]:
            pictures = [read.picture for read in batch if isinstance(read, _Read)]
            probabilities = iter(self._probabilities(np.stack(pictures), tta) if pictures else ())
            for read in batch:
                if isinstance(read, _Read):
                    yield self._prediction(read, next(probabilities), threshold, largest)
                else:
                    yield read

    def _read(self, image: Image) -> _Read | UserError:
        size = self.image_size
        try:
            picture, height, width = read_image(image, fit=(size, size), exif=self.exif == "rotate")
        except UserError as error:
            return error
        picture = resize_image(picture, size, size)
        return _Read(picture, measure_image(picture, height, width))

    def _prediction(
        self, read: _Read, probability: NDArray[np.float32], threshold: float | None, largest: str
    ) -> Prediction:
        own = resize_probability(probability, read.traits.height, read.traits.width)
        mask = decide(own, threshold, largest)
        several = own.ndim == 3
        foreground = 1 - own[..., 0] if several else own
        unlike = self.training_images.differences(read.traits) if self.training_images else ()
        return Prediction(
            mask=mask,
            probability=foreground,
            threshold=threshold,
            confidence=_confidence(mask != 0, foreground),
            unlike=unlike,
            classes=self.classes,
            class_probabilities=own if several else None,
        )

    def _probabilities(self, pictures: NDArray[np.uint8], tta: str) -> NDArray[np.float32]:
        """(images, image_size, image_size[, 1 + classes]) float32 of pictures (images, image_size, image_size, 3)."""
        if tta == "none":
            return self._activated(pictures)
        several = len(self.classes) > 1
        total = np.zeros((*pictures.shape[:3], 1 + len(self.classes)) if several else pictures.shape[:3], np.float32)
        for swapped, axes in symmetries(tta):
            seen = np.flip(pictures.swapaxes(1, 2) if swapped else pictures, axes)
            found = np.flip(self._activated(seen), axes)
            total += found.swapaxes(1, 2) if swapped else found
        total /= len(symmetries(tta))
        return total

    def _activated(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._logits(pictures)
        # exp of a large positive number would overflow; tanh does not.
        if len(self.classes) == 1:
            return 0.5 * (1 + np.tanh(0.5 * logits[..., 0]))
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)


def _confidence(mask: NDArray[np.bool_], probability: NDArray[np.float32]) -> float:
    return float(probability[mask].mean(dtype=np.float64) if mask.any() else 1 - probability.max())


def _named(channels: int, names: Sequence[str] | None) -> tuple[str, ...]:
    """The classes of a model that gives so many logits per pixel."""
    number = 1 if channels == 1 else channels - 1
    if names is None:
        return BINARY_CLASSES if number == 1 else tuple(str(label) for label in range(1, number + 1))
    if len(names) != number:
        raise UserError(f"classes must be {number} for a model of {channels} logits per pixel, got {', '.join(names)}.")
    return tuple(names)


def _find_model(path: Path) -> Path:
    candidates = [path / MODEL, path / _IN_MLFLOW_MODEL / MODEL] if path.is_dir() else [path]
    for file in candidates:
        if file.is_file():
            return file
    raise UserError(f"a model must be a .keras file or a folder with {MODEL}, got {path}; train one first.")


def _read_settings(path: Path) -> dict[str, Any]:
    """The arguments of `Predictor` that stand in a file; none where there is no file."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        known = settings.get("training_images")
        classes = settings.get("classes")
        if classes is not None and not isinstance(classes, list):
            raise ValueError(f"classes must be a list of names, got {classes!r}")
        several = classes is not None and len(classes) > 1  # they have no threshold
        return {
            "threshold": None if several else _checked(float(settings["threshold"])),
            "training_images": None if known is None else Appearance.from_json(known),
            "exif": settings.get("exif", EXIF[0]),
            "tta": settings.get("tta", "none"),
            "largest_component": settings.get("largest_component", "no"),
            "classes": None if classes is None else [str(name) for name in classes],
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f'{path} must hold {{"threshold": number}}, got: {error!r}; write it again.') from None


def _checked(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold must lie between 0 and 1, got {threshold}; use 0.5.")
    return threshold
