"""What training images look like, so that a model can say when it is given something else.

Four things are measured, each cheap and each a common mistake: size and shape, brightness, contrast, and grey or
colour. An image is *unlike* the training images where one of them lies outside the range of the training images and
a margin around it (see `Appearance.differences`). An image that is alike in these may still be of something else.

On TumorSeg (grey scans, 1502 for training), none of the 429 validation and 215 test images is unlike, as they are, at
half the size or as JPEGs of quality 30; each of the 215 is when it is inverted, blank, in false colours, cut in half
or a quarter of the size. A bright photo is unlike, and any in colour; a dark grey one may pass.

Travels with the registered model.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from seg.data.manifest import Manifest

Range = tuple[float, float]

_MEASURED = 2000  # images, evenly spaced: their quantiles do not move with more
_QUANTILES = (0.005, 0.995)
_SIDE_FACTOR = 2.0
_ASPECT_FACTOR = 1.5
_MARGIN = 0.25  # of the range's length
_LEAST_MARGIN = 8.0  # levels of 255
_COLOUR = 4.0  # levels of 255
_RARE = 0.01  # share of the training images


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What is measured of one image.

    Attributes:
        height, width: its own size, in pixels.
        brightness: mean grey level, 0 to 255.
        contrast: standard deviation of the grey levels, 0 to 127.5.
        colour: whether its pixels' largest and smallest channel lie at least 4 levels of 255 apart, on average;
            what a JPEG makes of a grey image lies below.
    """

    height: int
    width: int
    brightness: float
    contrast: float
    colour: bool


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """What the training images of a model look like.

    Attributes:
        height, width: in pixels; aspect: width divided by height; brightness, contrast: as in `Traits`. Each is the
            range from the 0.5 % to the 99.5 % quantile of the images.
        colour: share of images in colour, in [0, 1].
    """

    height: Range
    width: Range
    aspect: Range
    brightness: Range
    contrast: Range
    colour: float

    @classmethod
    def from_json(cls, content: Any) -> "Appearance":
        """What `to_json` wrote.

        Raises:
            ValueError: if it is anything else.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(content, Mapping) or set(content) != names:
            raise ValueError(f"the appearance of training images must have {', '.join(sorted(names))}, got {content!r}")
        colour = content["colour"]
        if not _is_number(colour) or not 0 <= colour <= 1:
            raise ValueError(f"colour must be a share in 0 to 1, got {colour!r}")
        ranges = {name: _range(value) for name, value in content.items() if name != "colour"}
        return cls(colour=colour, **ranges)

    def to_json(self) -> dict[str, Any]:
        """Values that JSON knows."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def differences(self, image: Traits) -> tuple[str, ...]:
        """How an image is unlike the training images, one line of text each; empty where it is alike.

        - size: a side shorter than half of the training images' or longer than twice, or width divided by height
          outside their range by more than a factor of 1.5 (every image is squeezed to one square);
        - brightness and contrast: outside their range by more than a quarter of its length, and by more than 8
          levels of 255, so that training images that are all the same leave some room;
        - colour where at most 1 % of the training images are in colour, or grey where at least 99 % are.
        """
        sides = {"height": (image.height, self.height), "width": (image.width, self.width)}
        found = [
            f"{name} {length} pixels: training images have {_shown(known)}"
            for name, (length, known) in sides.items()
            if not known[0] / _SIDE_FACTOR <= length <= known[1] * _SIDE_FACTOR
        ]
        aspect = image.width / image.height
        if not self.aspect[0] / _ASPECT_FACTOR <= aspect <= self.aspect[1] * _ASPECT_FACTOR:
            found.append(f"width/height {aspect:.2f}: training images have {_shown(self.aspect, '.2f')}")
        levels = {
            "brightness": (image.brightness, self.brightness),
            "contrast": (image.contrast, self.contrast),
        }
        for name, (level, known) in levels.items():
            margin = max(_MARGIN * (known[1] - known[0]), _LEAST_MARGIN)
            if not known[0] - margin <= level <= known[1] + margin:
                found.append(f"{name} {level:.0f} of 255: training images have {_shown(known)}")
        if image.colour and self.colour <= _RARE:
            found.append("in colour: training images are grey")
        elif not image.colour and self.colour >= 1 - _RARE:
            found.append("grey: training images are in colour")
        return tuple(found)


def measure_image(picture: NDArray[np.uint8], height: int, width: int) -> Traits:
    """Measures one image.

    Args:
        picture: RGB, (image_size, image_size, 3), uint8: as the model sees it, and as a record holds it.
        height, width: of the image itself, in pixels.
    """
    channels = np.ascontiguousarray(np.moveaxis(picture, 2, 0))  # along three neighbours in memory, NumPy is slow
    grey = channels.mean(axis=0, dtype=np.float32)
    spread = channels.max(axis=0) - channels.min(axis=0)
    return Traits(
        height=height,
        width=width,
        brightness=float(grey.mean(dtype=np.float64)),
        contrast=float(grey.std(dtype=np.float64)),
        colour=bool(spread.mean() >= _COLOUR),
    )


def measure_training_images(manifest: "Manifest") -> Appearance:
    """Measures the training split of a converted dataset; of more than 2000 images, 2000 evenly spaced ones."""
    records = manifest.records("train")
    chosen = set(np.linspace(0, len(records) - 1, min(len(records), _MEASURED)).round().astype(int).tolist())
    measured = [
        measure_image(records[index, ..., :3], example.height, example.width)
        for index, example in enumerate(manifest.examples("train"))
        if index in chosen
    ]
    return Appearance(
        height=_quantiles([image.height for image in measured]),
        width=_quantiles([image.width for image in measured]),
        aspect=_quantiles([image.width / image.height for image in measured]),
        brightness=_quantiles([image.brightness for image in measured]),
        contrast=_quantiles([image.contrast for image in measured]),
        colour=sum(image.colour for image in measured) / len(measured),
    )


def _quantiles(numbers: list[float]) -> Range:
    """Numbers that occur: of a few images, the smallest and the largest."""
    return (
        float(np.quantile(numbers, _QUANTILES[0], method="lower")),
        float(np.quantile(numbers, _QUANTILES[1], method="higher")),
    )


def _range(value: Any) -> Range:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_number, value)) or not value[0] <= value[1]:
        raise ValueError(f"a range must be two numbers, the lower one first, got {value!r}")
    return float(value[0]), float(value[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(known: Range, form: str = ".0f") -> str:
    low, high = (format(number, form) for number in known)
    return low if low == high else f"{low} to {high}"
