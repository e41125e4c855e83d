"""What the page shows of a look, as HTML that holds its pictures and files itself: nothing is left on the disk."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from experiments.web_page.look import Look, Reading
from experiments.web_page.models import LoadedModel
from seg.data.images import decode_image
from seg.overlay import SKY_BLUE, VERMILION, YELLOW, Colour, tiles
from seg.page import Html, data_uri, element, join, picture

_SHOWN = 512  # pixels of a picture's longer side


def header(name: str, models: Sequence[LoadedModel]) -> Html:
    """The page's head: which models answer, and how good they are."""
    return element(
        "header",
        element("div", element("p", "Image segmentation", class_="kind"), element("h1", name)),
        *(_card(model) for model in models),
        class_="seg-head",
    )


def _card(model: LoadedModel) -> Html:
    dice = "not scored" if model.info.dice is None else f"{model.info.dice:.3f}"
    facts = {
        "Test Dice": dice,
        "Threshold": f"{model.predictor.threshold:.2f}",
        "Input": f"{model.predictor.image_size} px",
    }
    terms = (element("div", element("dt", term), element("dd", value)) for term, value in facts.items())
    return element("div", element("b", model.title), element("dl", *terms), class_="seg-card")


def welcome() -> Html:
    """What stands in the place of the pictures before there is an image."""
    return element("p", "Drop an image on the left, or pick an example.", class_="seg-welcome")


def pictures(look: Look) -> Html:
    """A row of pictures for each model, and the legend of the differences.

    Made again at every move of a slider: nothing here may take long, so that files are made when they are asked for.
    """
    rows = [_row(look, index) for index in range(len(look.readings))]
    compared = look.reference(0) is not None
    return element("div", *rows, *([_legend(look)] if compared else []), class_="seg-result")


def _row(look: Look, index: int) -> Html:
    reading, reference = look.readings[index], look.reference(index)
    mask = _small(reading.mask)
    shown = tiles(_small(look.image), mask if reference is None else _small(reference), mask)
    size = shown["image"].shape[:2]
    white = cv2.resize(mask * np.uint8(255), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8)
    found = [("Image", shown["image"]), ("Prediction", shown["prediction"]), ("Mask", cv2.merge([white] * 3))]
    if reference is not None:
        found.append(("Difference", shown["difference"]))
    figures = (element("figure", picture(tile, label), element("figcaption", label)) for label, tile in found)
    return element("section", _facts(look, index), element("div", *figures, class_="seg-tiles"), class_="seg-row")


def _facts(look: Look, index: int) -> Html:
    reading, reference = look.readings[index], look.reference(index)
    mask = reading.mask
    area = int(np.count_nonzero(mask))
    told = [f"threshold {reading.threshold:.2f}", f"area {area:,} px ({area / mask.size:.1%})", _confidence(reading)]
    if reference is not None:
        against = "the truth" if look.truth is not None else look.readings[1 - index].model.title
        told.append(f"Dice {_dice(mask, reference):.3f} against {against}")
    parts = [element("b", reading.model.title), element("span", " · ".join(told))]
    parts += [
        element("p", f"Unlike the training images: {reason}", class_="seg-warning")
        for reason in reading.prediction.unlike
    ]
    return element("div", *parts, class_="seg-facts")


def _confidence(reading: Reading) -> str:
    probability = reading.prediction.probability
    found = cv2.mean(probability, reading.mask)[0] if reading.mask.any() else 1 - probability.max()
    return f"confidence {found:.2f}"


def _dice(mask: np.ndarray, reference: np.ndarray) -> float:
    total = int(np.count_nonzero(mask)) + int(np.count_nonzero(reference))
    return 1.0 if total == 0 else 2 * int(np.count_nonzero(mask & reference)) / total


def _legend(look: Look) -> Html:
    other = "truth" if look.truth is not None else "other model"
    entries: list[tuple[str, Colour]] = [
        ("both", SKY_BLUE),
        ("prediction only", VERMILION),
        (f"{other} only", YELLOW),
    ]
    marks = (element("span", element("i", style=f"background:rgb{colour}"), text) for text, colour in entries)
    return element("p", "Difference: ", *marks, class_="seg-legend")


def mask_file(look: Look) -> str:
    """The first model's mask as a file, for `segDownload` of `download.js`."""
    return _file(look, "mask.png", "image/png", look.mask_png())


def coco_file(look: Look) -> str:
    """The first model's mask as a COCO file, for `segDownload` of `download.js`."""
    return _file(look, "coco.json", "application/json", look.coco().encode())


def _file(look: Look, end: str, kind: str, content: bytes) -> str:
    name = f"{Path(look.name).stem}_{end}"
    return json.dumps({"name": name, "type": kind, "content": base64.b64encode(content).decode()})


def note(text: str) -> Html:
    """One line that says what was done."""
    return element("p", text, class_="seg-note") if text else Html()


def editor() -> Html:
    """The canvas on which a mask is redrawn; `editor.js` brings it to life."""
    tools = (
        element("button", text, type="button", data_tool=tool)
        for tool, text in (("brush", "Brush"), ("eraser", "Eraser"))
    )
    others = (element("button", text, type="button", data_do=do) for do, text in (("undo", "Undo"), ("clear", "Clear")))
    size = element("label", "Size ", Html('<input type="range" min="1" max="120" value="16">'))
    bar = element("div", join(tools), size, join(others), class_="seg-tools")
    return element("div", bar, element("canvas", tabindex=0, aria_label="mask to redraw"), class_="seg-editor")


def to_redraw(look: Look) -> str:
    """The image and the first model's mask, for `editor.js`; the mask is one channel of 0 and 255."""
    jpeg = cv2.imencode(".jpg", np.ascontiguousarray(look.image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    return json.dumps({"image": data_uri("image/jpeg", jpeg.tobytes()), "mask": data_uri("image/png", look.mask_png())})


def gallery(examples: Sequence[tuple[str, bytes]]) -> Html:
    """A button with a small picture for each example, a name and an encoded file."""
    buttons = (
        element("button", picture(_square(decode_image(content)), name), type="button", title=name, data_index=index)
        for index, (name, content) in enumerate(examples)
    )
    return element("div", *buttons, class_="seg-gallery")


def _square(image: np.ndarray) -> np.ndarray:
    """The middle of an image, (128, 128, 3)."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    return np.asarray(cv2.resize(square, (128, 128), interpolation=cv2.INTER_AREA), np.uint8)


def _small(array: np.ndarray) -> np.ndarray:
    """An image or a mask, shrunk to what is shown of it."""
    longer = max(array.shape[:2])
    if longer <= _SHOWN:
        return array
    size = [max(1, round(side * _SHOWN / longer)) for side in array.shape[1::-1]]
    how = cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST_EXACT
    return np.asarray(cv2.resize(array, size, interpolation=how), np.uint8)
