"""`Predictor`: any image to a mask at the image's own size. Travels with the registered model.

Keras, and TensorFlow with it, are imported when a model is loaded, not before: who only describes or registers a
model need not wait for them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg.data.images import decode_image, header_size, resize_image, resize_probability, to_rgb8
from seg.errors import UserError

MODEL = "model.keras"
SETTINGS = "settings.json"
_DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Prediction:
    """The mask of one image, at the image's own size.

    Attributes:
        mask: (height, width) uint8; 1 where `probability >= threshold`, else 0.
        probability: (height, width) float32 in [0, 1].
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]


class Predictor:
    """A trained model with the preparation of its images; load it with `Predictor.load`.

    Args:
        model: Keras model from (batch, image_size, image_size, 3) with values 0…255 to logits
            (batch, image_size, image_size, 1).
        threshold: probability from which on a pixel is foreground, unless a call says otherwise.
        batch_size: images that go through the model together.
    """

    def __init__(self, model: Any, threshold: float = _DEFAULT_THRESHOLD, batch_size: int = 8) -> None:
        self._model = model
        self._batch_size = batch_size
        self.threshold = _checked(threshold)
        self.image_size = int(model.input_shape[1])

    @classmethod
    def load(cls, path: Path | str, batch_size: int = 8) -> "Predictor":
        """Reads a model in Keras's safe mode, which refuses a file that carries code.

        Args:
            path: a folder with `model.keras` and, for another threshold than 0.5, `settings.json`
                (`{"threshold": 0.42}`); or a `.keras` file, whose settings lie beside it.
            batch_size: images that go through the model together.

        Raises:
            UserError: if there is no such model, or if it cannot be read.
        """
        file = Path(path)
        if file.is_dir():
            file = file / MODEL
        if not file.is_file():
            raise UserError(f"a model must be a .keras file or a folder with {MODEL}, got {path}; train one first.")
        threshold = _read_threshold(file.with_name(SETTINGS))
        import keras

        try:
            model = keras.models.load_model(file, compile=False, safe_mode=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"{file} must be a Keras model that loads in safe mode, got: {reason}") from None
        return cls(model, threshold, batch_size)

    def predict(self, image: bytes | NDArray[Any], threshold: float | None = None) -> Prediction:
        """The mask of one image.

        Args:
            image: an encoded file's bytes, or an array (height, width[, channels]) as `to_rgb8` takes it.
            threshold: probability from which on a pixel is foreground; None: the model's own.
        """
        return next(self.predict_many([image], threshold))

    def predict_many(
        self, images: Sequence[bytes | NDArray[Any]], threshold: float | None = None
    ) -> Iterator[Prediction]:
        """The masks of many images of any sizes, in order; one batch is held in memory at a time."""
        threshold = self.threshold if threshold is None else _checked(threshold)
        for start in range(0, len(images), self._batch_size):
            batch = images[start : start + self._batch_size]
            pictures = [self._as_rgb8(image) for image in batch]
            for image, probability in zip(batch, self._probabilities(pictures), strict=True):
                height, width = header_size(image) if isinstance(image, bytes) else image.shape[:2]
                own = resize_probability(probability, height, width)
                yield Prediction(mask=(own >= threshold).astype(np.uint8), probability=own)

    def _as_rgb8(self, image: bytes | NDArray[Any]) -> NDArray[np.uint8]:
        """As conversion reads it: a JPEG's file decoded no larger than the model needs."""
        if isinstance(image, bytes):
            return decode_image(image, fit=(self.image_size, self.image_size))
        return to_rgb8(image)

    def _probabilities(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """(images, image_size, image_size) float32; the pictures are (height, width, 3) of any sizes."""
        import keras

        size = self.image_size
        batch = np.stack([resize_image(picture, size, size) for picture in pictures]).astype(np.float32)
        # A model from a file takes a list of one input; Keras puts a tensor into it, and warns of an array.
        tensor = keras.ops.convert_to_tensor(batch)
        logits = np.asarray(self._model(tensor, training=False), dtype=np.float32)[..., 0]
        # exp of a large positive number would overflow; tanh does not.
        return 0.5 * (1 + np.tanh(0.5 * logits))


def _read_threshold(path: Path) -> float:
    try:
        return _checked(float(json.loads(path.read_text(encoding="utf-8"))["threshold"]))
    except FileNotFoundError:
        return _DEFAULT_THRESHOLD
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f'{path} must hold {{"threshold": number}}, got: {error!r}; write it again.') from None


def _checked(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold must lie between 0 and 1, got {threshold}; use 0.5.")
    return threshold
