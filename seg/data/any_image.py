"""Whatever a person has of an image becomes 8-bit RGB: a path, an encoded file, base64, a Pillow image or an array.

Travels with the registered model. Pillow is no requirement of it: its images are recognised by what they can do.
"""

import base64
import binascii
import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from seg.data.images import MAX_BYTES, check_size, decode_image, to_rgb8, turned_size
from seg.data.segmentation import shown
from seg.errors import UserError


@runtime_checkable
class PillowImage(Protocol):
    """What is used of a `PIL.Image.Image`."""

    @property
    def mode(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def convert(self, mode: str) -> Any: ...


Image = Path | str | bytes | bytearray | memoryview | NDArray[Any] | PillowImage

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
_DATA_URL = "data:"
_PILLOW_AS_IT_IS = {"1", "L", "RGB", "RGBA", "LA", "F", "I;16", "I;16L", "I;16B", "I;16N"}


def read_image(image: Image, *, fit: tuple[int, int], exif: bool = False) -> tuple[NDArray[np.uint8], int, int]:
    """Reads one image of any kind.

    Args:
        image: a path; the text of a path, of base64 or of a `data:` URL; the bytes of a JPEG, PNG, BMP or TIFF file;
            a Pillow image; or an array as `to_rgb8` takes it. Text that names an existing file is its path.
        fit: height and width that it will be resized to: a JPEG's file is decoded no larger than needed.
        exif: turn an encoded file as its EXIF data asks; Pillow images and arrays are taken as they are.

    Returns:
        RGB, shape (height, width, 3), uint8, perhaps a whole number of times smaller than the image; and the image's
        own height and width in pixels, as turned.

    Raises:
        UserError: if it is none of these, or cannot be read.
    """
    if isinstance(image, Path):
        image = read_file(image)
    elif isinstance(image, str):
        image = _read_text(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
        return decode_image(data, exif=exif, fit=fit), *turned_size(data, exif=exif)
    array = image if isinstance(image, np.ndarray) else _read_pillow(image)
    picture = to_rgb8(array)
    height, width = picture.shape[:2]
    check_size(height, width)
    return picture, height, width


def read_file(path: Path) -> bytes:
    """The bytes of an image file, before anything is decoded.

    Raises:
        UserError: if it is no file, cannot be read, or has more than `MAX_BYTES`.
    """
    if not os.path.isfile(path):
        raise UserError(f"an image's path must name a file, got {path}.")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"an image file must have at most {MAX_BYTES} bytes, {path} has more; make it smaller.")
    return data


def decode_base64(text: str | bytes) -> bytes:
    """The bytes of an encoded file in base64 (line breaks allowed), or in a `data:` URL of base64.

    Raises:
        UserError: if the text is neither.
    """
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    payload = text
    if text.startswith(_DATA_URL):
        head, comma, payload = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise UserError(f"a data: URL must hold base64, got {shown(text)}; write data:image/png;base64,…")
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):  # ValueError: letters beyond ASCII
        raise UserError(f"an image as text must be base64, got {shown(text)}; encode the file's bytes.") from None


def is_encoded(data: bytes) -> bool:
    """Whether bytes begin like a file that `decode_image` takes."""
    return data.startswith(_SIGNATURES)


def _read_text(text: str) -> bytes:
    """Base64 of a JPEG begins with /9j/, as a path may: a file that exists comes first."""
    if text.startswith(_DATA_URL):
        return decode_base64(text)
    if os.path.isfile(text):  # false, not an error, for text that no file can be named
        return read_file(Path(text))
    try:
        data = decode_base64(text)
    except UserError:
        data = b""
    if not is_encoded(data):
        raise UserError(f"an image as text must be the path of a file, or base64 of one, got {shown(text)}.")
    return data


def _read_pillow(image: Any) -> NDArray[Any]:
    """A Pillow image's pixels; modes that `to_rgb8` would misread (palette, CMYK, LAB, …) are converted by Pillow."""
    if not isinstance(image, PillowImage):
        raise UserError(
            "an image must be a path, base64, the bytes of a file, a Pillow image or a NumPy array, "
            f"got {type(image).__name__}; convert it to one of them."
        )
    check_size(image.size[1], image.size[0])  # nothing is unpacked yet
    try:
        if image.mode == "I":  # Pillow's type for some 16-bit files; a wider number is refused below
            array = np.asarray(image)
            return array.astype(np.uint16) if array.min() >= 0 and array.max() <= 65535 else array
        return np.asarray(image if image.mode in _PILLOW_AS_IT_IS else image.convert("RGB"))
    except Exception as error:  # each of Pillow's decoders has errors of its own
        raise UserError(f"the Pillow image cannot be decoded ({error}); export it again.") from None
