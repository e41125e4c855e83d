"""The JSON that `/invocations` takes, in the four forms of MLflow's protocol, counted before an image is decoded.

    {"inputs": [CELL, …]}                    or {"inputs": {"image": [CELL, …]}}
    {"instances": [CELL, …]}                 or [{"image": CELL}, …] in either
    {"dataframe_records": [{"image": CELL}, …]}
    {"dataframe_split": {"columns": ["image"], "data": [[CELL], …]}}

each with `"params": {…}` beside it where wanted. A cell is an encoded file in base64, or nested lists. MLflow's own
reader is not used: it copies the images several times over, and counts nothing.
"""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

MAX_IMAGES = 64  # of one request
COLUMN = "image"
_FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")


class Refused(Exception):
    """A request that the model does not see; holds an HTTP status and one line with the remedy."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


@dataclass(frozen=True)
class Invocation:
    """A request: its images, each text or nested lists (anything else is the model's to refuse), and parameters."""

    cells: list[Any]
    params: Any


def check_content_type(content_type: str | None) -> None:
    """Raises Refused (415) for all but JSON: a table of a few bytes can unpack to all of the memory."""
    kind, _, parameter = (content_type or "none").partition(";")
    if kind.strip().lower() != "application/json" or parameter.strip().lower() not in ("", "charset=utf-8"):
        raise Refused(
            f"the content type must be application/json in UTF-8, got {content_type or 'none'}; send JSON, or one "
            "image's file to /mask.",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )


def read_invocation(body: bytes) -> Invocation:
    """Reads a request's body.

    Raises:
        Refused: if it is no JSON of one of the four forms (400), or has more than `MAX_IMAGES` images (413).
    """
    try:
        request = json.loads(body)
    except RecursionError:
        raise Refused("the JSON must not be nested as deeply as this; send images as base64.") from None
    except ValueError as error:
        raise Refused(f"the body must be valid JSON, and is not ({error}).") from None
    given = [form for form in _FORMS if form in request] if isinstance(request, dict) else []
    if len(given) != 1:
        got = f"an object with {len(given)} of them" if isinstance(request, dict) else f"a {type(request).__name__}"
        raise Refused(f"the JSON must be an object with exactly one of {', '.join(_FORMS)}, got {got}; use inputs.")
    cells = _cells(given[0], request[given[0]])
    if len(cells) > MAX_IMAGES:
        raise Refused(
            f"a request must have at most {MAX_IMAGES} images, got {len(cells)}; send several requests.",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    return Invocation(cells, request.get("params"))


def check_pixels(cells: list[Any]) -> None:
    """Raises Refused (413) for more pixels together than one image may have, by the headers of the files.

    An image that the model refuses itself (it is broken, or larger than that alone) is not decoded, and not counted.
    """
    # Not before a model is loaded: `load_served_model` puts the code that was registered with it in the place of ours.
    from seg.data.images import MAX_PIXELS

    pixels = sum(_pixels(cell) for cell in cells)
    if pixels > MAX_PIXELS:
        raise Refused(
            f"a request's images must have at most {MAX_PIXELS} pixels together, got {pixels}; send several requests.",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )


def _pixels(cell: Any) -> int:
    from seg.data.any_image import decode_base64
    from seg.data.images import check_size, header_size
    from seg.errors import UserError

    if isinstance(cell, list):
        return len(cell) * len(cell[0]) if cell and isinstance(cell[0], list) else 0
    if not isinstance(cell, str):
        return 0
    try:
        height, width = header_size(decode_base64(cell))
        check_size(height, width)
    except UserError:
        return 0
    return height * width


def _cells(form: str, given: Any) -> list[Any]:
    if form == "dataframe_split":
        if not isinstance(given, dict) or given.get("columns") != [COLUMN]:
            raise Refused(f'dataframe_split must have "columns": ["{COLUMN}"], and "data" with a list for each image.')
        rows = _list(form, given.get("data"))
        if not all(isinstance(row, list) and len(row) == 1 for row in rows):
            raise Refused("the data of dataframe_split must be lists of one image each.")
        return [row[0] for row in rows]
    if form == "inputs" and isinstance(given, dict):
        if COLUMN not in given:
            raise Refused(f"inputs must have the key {COLUMN}, and has not; use it, or a list.")
        return _list(COLUMN, given[COLUMN])
    cells = _list(form, given)
    if form == "dataframe_records" or any(isinstance(cell, dict) for cell in cells):
        if not all(isinstance(cell, dict) and COLUMN in cell for cell in cells):
            raise Refused(f"each of {form} must be an object with the key {COLUMN}.")
        return [cell[COLUMN] for cell in cells]
    return cells


def _list(name: str, given: Any) -> list[Any]:
    if not isinstance(given, list):
        raise Refused(f"{name} must be a list, got {type(given).__name__}.")
    return given
