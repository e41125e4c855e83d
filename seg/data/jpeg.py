"""What a JPEG's header says, and the pixels of the usual kinds.

These are decoded by simplejpeg where that finds nothing unusual, else by OpenCV. Both are libjpeg-turbo and give the
same pixels; OpenCV takes longer, decodes more kinds, and says what is damaged. Travels with the registered model.
"""

import re
import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg

from seg.errors import UserError

_END = b"\xff\xd9"
_LOSSLESS = re.compile(rb"\xff[\xc3\xc7\xcb\xcf]")  # the markers of such frames


def decode_usual_jpeg(data: bytes, size: tuple[int, int], stated: tuple[int, int]) -> np.ndarray | None:
    """The pixels of a JPEG; None where simplejpeg does not know its kind, or finds something wrong with it.

    Args:
        data: the whole file.
        size, stated: its height and width, and those to decode it at.
    """
    # Nothing makes a lossless JPEG smaller, and simplejpeg 1.9.0 writes all of it into memory for the smaller image.
    # No such frame is without its marker, wherever it is hidden; between the bytes of a scan there is none.
    if stated != size and _LOSSLESS.search(data):
        return None
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != size:
            return None
        image: np.ndarray = simplejpeg.decode_jpeg(data, min_height=stated[0], min_width=stated[1])
    except (ValueError, KeyError, MemoryError):  # a sampling that it has no name for is a KeyError
        return None
    return image if image.shape[:2] == stated else None


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The marker and offset of each segment up to the first scan."""
    position = 2
    while True:
        while data[position] == 0xFF and data[position + 1] == 0xFF:
            position += 1
        if data[position] != 0xFF:
            raise UserError("the JPEG's header is damaged; export it again.")
        marker = data[position + 1]
        yield marker, position
        if marker == 0xDA:
            return
        position += 2
        if marker != 0x01 and not 0xD0 <= marker <= 0xD7:
            position += max(2, *struct.unpack(">H", data[position : position + 2]))


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width as the header states them; raises UserError, IndexError or struct.error where it is damaged."""
    for marker, position in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return height, width
    raise UserError("the JPEG's header states no size; export it again.")


def check_jpeg_end(data: bytes) -> None:
    """Raises UserError for a file that was cut off, of which OpenCV returns an image that is half grey.

    The end marker cannot occur inside a scan.
    """
    if data.endswith(_END):  # nearly every file; one that has no scan before it, no decoder takes
        return
    try:
        scan = next((position for marker, position in _segments(data) if marker == 0xDA), len(data))
    except (struct.error, IndexError):  # a damaged length leads beyond the end
        scan = len(data)
    if data.find(_END, scan) < 0:
        raise UserError("the JPEG is cut off (it has no end marker); copy or export it again.")
