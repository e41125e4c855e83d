"""Numbered series in file names: `scan12_slice007.png` is number 7 of the series `scan12_slice#`.

Neighbours in a series of slices or video frames show nearly the same thing, so they must not stand in two splits.
"""

import re
from pathlib import PurePosixPath

_ROBOFLOW = re.compile(r"_(?:jpe?g|png|bmp|tiff?|webp)\.rf\.[0-9A-Za-z]+$")  # what Roboflow adds to every name
_LAST_NUMBER = re.compile(r"([0-9]{1,18})(?=[^0-9]*$)")


def place_in_series(file_name: str) -> tuple[str, int] | None:
    """The series that a file belongs to and its number there; None where the name holds no number.

    Args:
        file_name: relative to its split's image folder; subfolders are part of the series' name.
    """
    path = PurePosixPath(file_name.replace("\\", "/"))
    stem = _ROBOFLOW.sub("", path.name.rsplit(".", 1)[0])
    match = _LAST_NUMBER.search(stem)
    if match is None:
        return None
    series = f"{stem[: match.start()]}#{stem[match.end() :]}"
    return (series if len(path.parts) == 1 else f"{path.parent}/{series}"), int(match[0])
