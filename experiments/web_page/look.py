"""`Look`: one person's look at one image. What was predicted is kept, so that a threshold moves without the models."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from experiments.web_page.models import LoadedModel
from seg.data.any_image import decode_base64
from seg.data.coco_writer import annotation_of
from seg.data.corrections import Corrections
from seg.data.export import FOREGROUND
from seg.data.images import decode_image, header_size
from seg.errors import UserError
from seg.inference import Prediction

MAX_PIXELS = 16_000_000  # of an image on the page; a browser's canvas takes no more everywhere


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one model says of the image, at the threshold that is set now."""

    model: LoadedModel
    prediction: Prediction
    threshold: float

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """(height, width) of 0 and 1, from the probability that was predicted once."""
        return (self.prediction.probability >= self.threshold).view(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Look:
    """An image with what is known of it.

    Attributes:
        name: of the file, for people.
        content: the file as it was given; a correction keeps it as it is.
        image: (height, width, 3) uint8 RGB.
        readings: of the model that was chosen, and of the one that it is compared with.
        truth: (height, width) of 0 and 1, where one was given.
    """

    name: str
    content: bytes = field(repr=False)
    image: NDArray[np.uint8] = field(repr=False)
    readings: tuple[Reading, ...]
    truth: NDArray[np.uint8] | None = None

    def with_threshold(self, index: int, threshold: float) -> "Look":
        """The same with another threshold of one reading; nothing is predicted.

        The slider of a model that is no longer compared with may still be moving: that changes nothing.
        """
        if index >= len(self.readings):
            return self
        readings = list(self.readings)
        readings[index] = replace(readings[index], threshold=threshold)
        return replace(self, readings=tuple(readings))

    def with_truth(self, content: bytes) -> "Look":
        """The same with a truth: the file of a mask, in which what is not black is foreground.

        Raises:
            UserError: if the file cannot be read, or has another size than the image.
        """
        height, width = header_size(content)
        if (height, width) != self.image.shape[:2]:
            raise UserError(
                f"a mask must have the size of its image, {self.image.shape[0]}×{self.image.shape[1]}, got "
                f"{height}×{width}; export it at that size."
            )
        return replace(self, truth=np.asarray(decode_image(content).any(axis=2), np.uint8))

    def with_same_truth(self, other: "Look") -> "Look":
        """The same with the truth of another look at the same image."""
        return replace(self, truth=other.truth)

    def reference(self, index: int) -> NDArray[np.uint8] | None:
        """What a reading is compared with: the truth, else the other model's mask; None where there is neither."""
        if self.truth is not None:
            return self.truth
        return self.readings[1 - index].mask if len(self.readings) == 2 else None

    def mask_png(self) -> bytes:
        """The first model's mask as a PNG of 0 and 255, at the image's own size."""
        return cv2.imencode(".png", self.readings[0].mask * np.uint8(255))[1].tobytes()

    def coco(self) -> str:
        """The first model's mask as a COCO file: this image, and one annotation unless the mask is empty."""
        reading = self.readings[0]
        height, width = reading.mask.shape
        annotation = annotation_of(reading.mask, image_id=1, category_id=1, segmentation="polygon")
        content: dict[str, Any] = {
            "info": {"description": f"predicted by {reading.model.info.uri}", **self._notes()},
            "categories": [{"id": 1, "name": FOREGROUND}],
            "images": [{"id": 1, "file_name": self.name, "height": height, "width": width}],
            "annotations": [{"id": 1, **annotation}] if annotation["area"] else [],
        }
        return json.dumps(content, indent=1)

    def mark_wrong(self, corrections: Corrections) -> str:
        """Notes the first model's mask as wrong; returns where, for people."""
        return str(corrections.mark_wrong(self.content, self.name, self.readings[0].mask, self._notes()))

    def redraw(self, corrections: Corrections, drawn: str) -> str:
        """Saves a redrawn mask; returns where, for people.

        Args:
            corrections: to save it in.
            drawn: a `data:` URL of a grey PNG of 0 and 255, at the image's own size.

        Raises:
            UserError: if that is none, or the correction cannot be saved.
        """
        mask = decode_image(decode_base64(drawn))[..., 0] > 127
        return str(corrections.redraw(self.content, self.name, mask.astype(np.uint8), self._notes()))

    def _notes(self) -> dict[str, Any]:
        reading = self.readings[0]
        return {"model": reading.model.info.uri, "threshold": reading.threshold}


def look_at(name: str, content: bytes, models: Sequence[LoadedModel]) -> Look:
    """Predicts one image with each model, at each model's own threshold.

    Args:
        name: of the file, for people.
        content: the encoded file.
        models: one, or two that are compared.

    Raises:
        UserError: if the image cannot be read, has more than `MAX_PIXELS`, or only one of two models turns images as
            their EXIF data asks.
    """
    height, width = header_size(content)
    if height * width > MAX_PIXELS:
        raise UserError(
            f"the page takes images of at most {MAX_PIXELS:,} pixels, got {width}×{height}; make it smaller, or "
            "predict it with the entry point predict."
        )
    policies = {model.predictor.exif for model in models}
    if len(policies) > 1:
        raise UserError("two models are compared on the same pixels, and one of them turns images as EXIF asks.")
    image = decode_image(content, exif=policies == {"rotate"})
    readings = []
    for model in models:
        prediction = model.predictor.predict(content)
        assert prediction.threshold is not None  # `Models` loads none of several classes
        readings.append(Reading(model=model, prediction=prediction, threshold=prediction.threshold))
    return Look(name=name, content=content, image=image, readings=tuple(readings))
