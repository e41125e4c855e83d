"""Pictures of masks: the four-tile panel of truth against prediction, and a mask laid over its image.

The colours are Okabe and Ito's (2008), told apart with every common form of colour blindness; true and false
positives and false negatives also differ in lightness.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.errors import UserError

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

SKY_BLUE: Colour = (86, 180, 233)
VERMILION: Colour = (213, 94, 0)
YELLOW: Colour = (240, 228, 66)
GREY: Colour = (150, 150, 150)
PURPLE: Colour = (204, 121, 167)
CLASS_COLOURS: tuple[Colour, ...] = (SKY_BLUE, (230, 159, 0), (0, 158, 115), PURPLE, (0, 114, 178), VERMILION, YELLOW)
"""Of the classes 1, 2, …; then they begin anew."""
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (34, 39, 46)
_PALE_INK: Colour = (97, 106, 117)

_IGNORED = 255
_SMALLEST_TILE, _LARGEST_TILE = 256, 512  # pixels of a tile's longer side
_MARGIN, _GAP, _TITLE, _LABEL, _LEGEND = 16, 10, 40, 26, 36  # pixels
_FILL = 0.45  # opacity of a mask's inside


def panel(
    image: Picture, truth: Picture, prediction: Picture, title: str, classes: Sequence[str] = ("foreground",)
) -> Picture:
    """One picture for one image: image, truth, prediction and difference, side by side.

    Args:
        image: (height, width, 3) uint8 RGB.
        truth: (height, width) uint8; 0 background, 1, 2, … the classes, 255 ignored (hatched in grey).
        prediction: (height, width) uint8; 0 background, 1, 2, … the classes.
        title: the line above the tiles; cut with an ellipsis where it does not fit.
        classes: names of the classes; of several, another line below the tiles has their colours.

    Returns:
        (picture height, picture width, 3) uint8 RGB. Small images are enlarged by a whole factor.

    Raises:
        UserError: if the three do not have the same height and width.
    """
    _check(image, truth, prediction)
    height, width = _tile_size(*image.shape[:2])
    shown = tiles(image, truth, prediction)
    columns = len(shown)
    # Tall and narrow images still leave room for the legend.
    step = max(width, 150) + _GAP
    legends = _LEGEND * (1 if len(classes) == 1 else 2)
    canvas = np.full(
        (_TITLE + _LABEL + height + legends, 2 * _MARGIN + columns * step - _GAP, 3), _PAPER, dtype=np.uint8
    )
    _write(canvas, _fitted(title, canvas.shape[1] - 2 * _MARGIN, 17), _MARGIN, 27, 17, _INK, weight=600)
    for column, (label, tile) in enumerate(shown.items()):
        left, top = _MARGIN + column * step, _TITLE + _LABEL
        _write(canvas, label, left, top - 8, 14, _PALE_INK)
        canvas[top : top + height, left : left + width] = tile
    kinds = [("true positive", SKY_BLUE), ("false positive", VERMILION), ("false negative", YELLOW)]
    if len(classes) > 1:
        kinds.append(("another class", PURPLE))
        named = [(name, class_colour(label)) for label, name in enumerate(classes, start=1)]
        _draw_legend(canvas, _fitting(named, canvas.shape[1]), baseline=canvas.shape[0] - 13 - _LEGEND)
    if (truth == _IGNORED).any():
        kinds.append(("ignored", GREY))
    _draw_legend(canvas, kinds, baseline=canvas.shape[0] - 13)
    return canvas


def class_colour(label: int) -> Colour:
    """The colour of a class, counted from 1."""
    return CLASS_COLOURS[(label - 1) % len(CLASS_COLOURS)]


def coloured(mask: Picture) -> Picture:
    """A mask alone: (height, width) uint8 of classes as (height, width, 3), background black, ignored grey."""
    colours = np.zeros((256, 3), np.uint8)
    colours[1:_IGNORED] = [class_colour(label) for label in range(1, _IGNORED)]
    colours[_IGNORED] = GREY
    return colours[mask]


def tiles(image: Picture, truth: Picture, prediction: Picture) -> dict[str, Picture]:
    """The four tiles of a panel, by what they show: image, truth, prediction, difference; see `panel`.

    The difference is blue where both agree on a class, vermilion where only the prediction has one, yellow where only
    the truth has one, purple where each has another.
    """
    _check(image, truth, prediction)
    height, width = _tile_size(*image.shape[:2])
    picture = _resize(image, height, width)
    truth = _resize_mask(truth, height, width)
    prediction = _resize_mask(prediction, height, width)
    ignored = truth == _IGNORED
    known = np.where(ignored, 0, truth), np.where(ignored, 0, prediction)
    return {
        "image": picture,
        "truth": _hatch(_lay_classes(picture, truth), ignored),
        "prediction": _lay_classes(picture, prediction),
        "difference": _hatch(_difference(picture, *known), ignored),
    }


def overlay(image: Picture, mask: Picture) -> Picture:
    """The image with its mask as a transparent fill and a contour, at the image's own size.

    Args:
        image: (height, width, 3) uint8 RGB.
        mask: (height, width) uint8; 0 background, 1, 2, … the classes, 255 ignored (hatched in grey).

    Raises:
        UserError: if the two do not have the same height and width.
    """
    _check(image, mask)
    return _hatch(_lay_classes(image, mask), mask == _IGNORED)


def _check(image: Picture, *masks: Picture) -> None:
    for mask in masks:
        if image.ndim != 3 or image.shape[2] != 3 or mask.shape != image.shape[:2]:
            raise UserError(
                f"a picture needs an image (height, width, 3) and masks (height, width), "
                f"got {image.shape} and {mask.shape}; resize the masks to the image."
            )


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """Enlarged by a whole factor, so that a pixel of the mask stays a square; shrunk only when very large."""
    longer = max(height, width)
    if longer > _LARGEST_TILE:
        return max(1, round(height * _LARGEST_TILE / longer)), max(1, round(width * _LARGEST_TILE / longer))
    factor = -(-_SMALLEST_TILE // longer)
    return height * factor, width * factor


def _resize(image: Picture, height: int, width: int) -> Picture:
    shrinks = height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC).astype(
        np.uint8
    )


def _resize_mask(mask: Picture, height: int, width: int) -> Picture:
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8)


def _lay(image: Picture, area: NDArray[np.bool_], colour: Colour) -> Picture:
    """The image with one area filled transparently and outlined."""
    laid = _fill(image, area, colour, _FILL)
    contours, _ = cv2.findContours(area.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(image.shape[:2]) / 256))
    cv2.drawContours(laid, contours, -1, colour, thickness, cv2.LINE_AA)
    return laid


def _lay_classes(image: Picture, mask: Picture) -> Picture:
    """The image with every class laid on it in its colour."""
    laid = image
    for label in np.unique(mask[(mask != 0) & (mask != _IGNORED)]):
        laid = _lay(laid, mask == label, class_colour(int(label)))
    return laid


def _difference(image: Picture, truth: Picture, prediction: Picture) -> Picture:
    """The image, dimmed, with each kind of pixel in its colour; masks without ignored pixels."""
    true, found = truth != 0, prediction != 0
    same = truth == prediction
    dimmed = (image.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.55).astype(np.uint8)
    kinds = (
        (true & same, SKY_BLUE),
        (found & ~true, VERMILION),
        (true & ~found, YELLOW),
        (true & found & ~same, PURPLE),
    )
    for area, colour in kinds:
        dimmed = _fill(dimmed, area, colour, 0.8)
    return dimmed


def _hatch(image: Picture, area: NDArray[np.bool_]) -> Picture:
    """The image with one area under grey diagonal stripes."""
    rows, columns = np.ogrid[: area.shape[0], : area.shape[1]]
    striped = _fill(image, area & ((rows + columns) % 8 < 3), (225, 225, 225), 0.9)
    return _fill(striped, area & ((rows + columns) % 8 >= 3), GREY, 0.6)


def _fill(image: Picture, area: NDArray[np.bool_], colour: Colour, opacity: float) -> Picture:
    filled = image.copy()
    filled[area] = np.rint(image[area] * (1 - opacity) + np.array(colour) * opacity)
    return filled


def _fitting(entries: Sequence[tuple[str, Colour]], width: int) -> list[tuple[str, Colour]]:
    """The first entries of a legend, as many as find room in a line; their names cut where they are long."""
    fitting: list[tuple[str, Colour]] = []
    room = width - 2 * _MARGIN
    for text, colour in entries:
        short = _fitted(text, 140, 13)
        room -= _text_width(short, 13) + 34
        if room < 0:
            break
        fitting.append((short, colour))
    return fitting


def _draw_legend(canvas: Picture, entries: Sequence[tuple[str, Colour]], baseline: int) -> None:
    """What colours mean, from the right edge of the canvas leftwards."""
    right = canvas.shape[1] - _MARGIN
    for text, colour in reversed(entries):
        left = right - _text_width(text, 13)
        _write(canvas, text, left, baseline, 13, _INK)
        cv2.rectangle(canvas, (left - 18, baseline - 10), (left - 7, baseline + 1), colour, cv2.FILLED)
        right = left - 34


def _write(canvas: Picture, text: str, x: int, y: int, size: int, colour: Colour, weight: int = 400) -> None:
    cv2.putText(canvas, text, (x, y), colour, _font(), size, weight)


def _text_width(text: str, size: int, weight: int = 400) -> int:
    left, _, width, _ = cv2.getTextSize((1 << 15, 64), text, (0, 32), _font(), size, weight)
    return int(left + width)


def _fitted(text: str, width: int, size: int) -> str:
    if _text_width(text, size, 600) <= width:
        return text
    while text and _text_width(text + "…", size, 600) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _font() -> "cv2.FontFace":
    return cv2.FontFace("sans")
