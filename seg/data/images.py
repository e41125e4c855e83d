"""How every image becomes 8-bit RGB and changes its size: in conversion, in evaluation and in the registered model.

Needs NumPy, OpenCV and simplejpeg only, because this file travels with the registered model.

Conversion to 8-bit RGB: grey is repeated, a palette and 1-bit are expanded, CMYK is converted by the decoder,
16-bit is divided by 257 and rounded, alpha is dropped (the stored colours count). EXIF rotation is ignored unless
asked for, because annotations refer to the stored pixels.

Resizing: pixel centres lie at half-integers, so that images, masks and probabilities stay aligned. An axis that
shrinks is averaged over the area that each new pixel covers; an axis that grows is interpolated linearly.

A JPEG that will be shrunk is decoded at a half, a quarter or an eighth of its size where that is still large enough
(`fit`), which takes half the time. Conversion and the registered model both do so for files. An array that somebody
else decoded at full size gives nearly the same record: about one grey level apart on average.

A JPEG is decoded by simplejpeg where that finds nothing unusual (`seg.data.jpeg`), else by OpenCV.
"""

import math
import struct
import zlib
from functools import cache

import cv2
import numpy as np

from seg.data.jpeg import check_jpeg_end, decode_usual_jpeg, jpeg_size
from seg.data.tiff import check_tiff, keep_colours, tiff_size
from seg.errors import UserError

MAX_BYTES = 256 * 1024 * 1024  # of an encoded file
MAX_SIDE = 32_768
MAX_PIXELS = 64 * 1024 * 1024  # 200 MB as RGB
IGNORE = 255
Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels; all 0 around nothing."""
_ROWS = 1024  # worked on at once where the steps between take memory
_SAME_PIXEL = np.tile(np.array([[1, 1, 0]], np.uint8), 2**15)  # of neighbouring numbers of an RGB image
_SMALL = 4 * 1024 * 1024  # numbers that may take eight times their memory for a moment
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_TIFF = (b"II*\0", b"MM\0*")
_WHOLE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
# Asked for RGB, OpenCV returns uninitialised memory for a TIFF of 16 bits.
_WHOLE_TIFF = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
_REDUCED = {  # how OpenCV is told to decode at 1/n of the size; its constants for colour mean BGR
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}

EXIF = ("ignore", "rotate")  # what happens to the rotation that EXIF data asks for


def decode_image(data: bytes, *, exif: bool = False, fit: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes the bytes of a JPEG, PNG, BMP or TIFF file.

    The size is judged from the header before a pixel is decoded, and a file that ends early is refused: a JPEG without
    an end marker, a PNG without a last chunk or with a checksum that does not fit, a TIFF without all of its data.
    Damage within a JPEG or an 8-bit TIFF is not seen here, where decoders fill in what is missing;
    `seg.data.decoder_lines` reads what they say about it.

    Args:
        data: the whole file.
        exif: apply the rotation that the EXIF data asks for.
        fit: height and width that the image will be resized to; None for every pixel.

    Returns:
        RGB, shape (height, width, 3), uint8; with `fit` perhaps a whole number of times smaller, never below `fit`.

    Raises:
        UserError: if the data is not such a file, is cut off or damaged, is larger than `MAX_PIXELS`, or holds numbers
            that are no unsigned integers of up to 16 bits.
    """
    height, width = header_size(data)
    check_size(height, width)
    if data.startswith(_PNG):
        _check_png_chunks(data)
    elif data.startswith(_JPEG):
        check_jpeg_end(data)
    elif data.startswith(_TIFF):
        check_tiff(data)
        data = keep_colours(data)
    reduction = _reduction(height, width, fit) if fit and data.startswith(_JPEG) else 1
    stated = (height // reduction, width // reduction)
    if data.startswith(_JPEG) and not exif and (image := decode_usual_jpeg(data, (height, width), stated)) is not None:
        return image
    flags = _REDUCED.get(reduction, _WHOLE_TIFF if data.startswith(_TIFF) else _WHOLE)
    silence_opencv()
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | (0 if exif else cv2.IMREAD_IGNORE_ORIENTATION))
    except cv2.error as error:
        raise UserError(f"the image cannot be decoded ({error.err}); export it again.") from None
    if image is None:
        raise UserError("the image is damaged and cannot be decoded; export it again.")
    if image.shape[:2] != stated and not (exif and image.shape[1::-1] == stated):
        raise UserError(
            f"the image's header states a size of {width}×{height}, and it decodes to another one "
            f"({image.shape[1]}×{image.shape[0]}); export it again."
        )
    return to_rgb8(cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if flags == _WHOLE_TIFF else image)


@cache
def silence_opencv() -> None:
    """Keeps OpenCV's own lines off the terminal, once per process: the errors raised here say what is wrong."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def turned_size(data: bytes, *, exif: bool) -> tuple[int, int]:
    """Height and width of an image that `decode_image` has decoded, as it was turned where `exif` is asked for."""
    height, width = header_size(data)
    if not exif or height == width:
        return height, width
    reduced = decode_image(data, exif=True, fit=(1, 1))
    return (width, height) if (reduced.shape[0] > reduced.shape[1]) != (height > width) else (height, width)


def check_size(height: int, width: int) -> None:
    """Raises UserError if an image is larger than `MAX_PIXELS` or one of its sides longer than `MAX_SIDE`."""
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise UserError(
            f"an image must have at most {MAX_PIXELS} pixels and sides of at most {MAX_SIDE}, "
            f"got {width}×{height}; make it smaller."
        )


def header_size(data: bytes) -> tuple[int, int]:
    """Height and width as the file's header states them, before any rotation.

    Raises:
        UserError: if the data is empty, of no supported format, or ends within its header.
    """
    if not data:
        raise UserError("the image file is empty; export it again.")
    try:
        if data.startswith(_PNG):
            width, height = struct.unpack(">II", data[16:24])
        elif data.startswith(_JPEG):
            height, width = jpeg_size(data)
        elif data.startswith(b"BM"):
            width, height = struct.unpack("<ii", data[18:26])
            height = abs(height)  # a negative height means rows from top to bottom
        elif data.startswith(_TIFF):
            height, width = tiff_size(data)
        else:
            start = data[:16].decode("latin-1").encode("unicode_escape").decode()
            raise UserError(f"an image must be a JPEG, PNG, BMP or TIFF file, this one begins with '{start}'.")
    except (struct.error, IndexError, KeyError):
        raise UserError("the image file ends within its header; export it again.") from None
    if height < 1 or width < 1:
        raise UserError(f"the image's header states a size of {width}×{height}; export it again.")
    return height, width


def to_rgb8(image: np.ndarray) -> np.ndarray:
    """Converts an array to RGB with 8 bits, shape (height, width, 3), uint8.

    Args:
        image: grey (height, width) or (height, width, 1), grey and alpha (…, 2), RGB (…, 3) or RGBA (…, 4); uint8,
            uint16 (divided by 257; either byte order), bool (0 and 255), or floating point in [0, 1].

    Raises:
        UserError: on any other shape or type, on an empty array and on numbers outside [0, 1].
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4) or not image.size:
        raise UserError(
            f"an image must have shape (height, width) or (height, width, 1 to 4), got {image.shape}; "
            "pass one image at a time."
        )
    image = image[..., :1] if image.shape[2] == 2 else image[..., :3]
    if image.dtype != np.uint8:
        image = _as_uint8(image)
    if image.shape[2] == 1:
        image = np.broadcast_to(image, (*image.shape[:2], 3))
    return np.ascontiguousarray(image)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an RGB image to (height, width, 3), uint8."""
    channels = resized_channels(image, height, width)
    return channels[0] if len(channels) == 1 else cv2.merge(channels)


def resized_channels(image: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """The resized red, green and blue of an RGB image, to be merged: each (height, width), uint8, or all as one."""
    grey = _grey_channel(image)
    if grey is None:
        return [_resize(image, height, width)]
    # Grey stored as colour is the rule in medicine; one channel gives the same numbers in a third of the time.
    return [_resize(grey, height, width)] * 3


def resize_mask(mask: np.ndarray, height: int, width: int, classes: int = 1, *, box: Box | None = None) -> np.ndarray:
    """Resizes a mask of 0, 1 … `classes` and 255 (ignored) to (height, width), uint8, by majority of the covered area.

    The foreground is resized like an image, and a pixel is foreground where at least half of it is; where part of
    it is ignored, where at least half of the rest is. A pixel is ignored where at least half of it is. A foreground
    pixel is of the class that covers most of it; of equals, of the first.

    Args:
        box: around what is not 0; None: it is looked for.
    """
    left, top, box_width, box_height = _box(mask) if box is None else box
    rows, row_places = _window(top, box_height, mask.shape[0], height)
    columns, column_places = _window(left, box_width, mask.shape[1], width)
    resized = np.zeros((height, width), np.uint8)
    if rows.stop > rows.start:
        size = (row_places.stop - row_places.start, column_places.stop - column_places.start)
        stretch = np.ascontiguousarray(mask[rows, columns])
        if classes == 1:
            resized[row_places, column_places] = _resize_labels(stretch, *size)
        else:
            resized[row_places, column_places] = _resize_classes(stretch, *size, classes)
    return resized


def resize_probability(probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes probabilities, shape (height, width) or (height, width, classes), to the given size, float32."""
    probability = probability.astype(np.float32, copy=False)
    if probability.ndim == 2:
        return _resize(probability, height, width)
    parts = (np.ascontiguousarray(part) for part in np.moveaxis(probability, 2, 0))
    return np.stack([_resize(part, height, width) for part in parts], axis=2)


def _as_uint8(image: np.ndarray) -> np.ndarray:
    if image.dtype in (np.dtype(">u2"), np.dtype("<u2")):
        return _eight_bits(image)
    if image.dtype == np.bool_:
        return image * np.uint8(255)
    if not np.issubdtype(image.dtype, np.floating):
        raise UserError(f"an image must be uint8, uint16, bool or floating point, got {image.dtype}; convert it.")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # false for NaN too
        raise UserError(f"an image of floating point must lie in [0, 1], got {low} to {high}; pass uint8 instead.")
    return np.rint(image * 255).astype(np.uint8)


def _eight_bits(image: np.ndarray) -> np.ndarray:
    """uint16 divided by 257, rounded; some rows at a time, because the steps between take four times the memory."""
    small = np.empty(image.shape, np.uint8)
    for start in range(0, len(image), _ROWS):
        small[start : start + _ROWS] = (image[start : start + _ROWS].astype(np.uint32) + 128) // 257
    return small


def _grey_channel(image: np.ndarray) -> np.ndarray | None:
    """The one channel of an RGB image whose three are equal; None where they are not."""
    numbers, most = image.reshape(1, -1), _SAME_PIXEL.size  # a row: of a column OpenCV takes one at a time
    for start in range(0, numbers.size, most):
        part = numbers[:, start : start + most]
        if cv2.norm(part[:, 1:], part[:, :-1], cv2.NORM_INF, _SAME_PIXEL[:, : part.size - 1]):
            return None
    return cv2.extractChannel(image, 0)


def _resize_labels(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a mask of 0, 1 and 255 (ignored)."""
    if mask.max() < IGNORE:
        return (_resize(np.negative(mask), height, width) >= 128).view(np.uint8)  # of a byte, 1 becomes 255
    foreground, ignored = (_resize(cv2.inRange(mask, value, value), height, width) for value in (1, IGNORE))
    resized = (2 * foreground.astype(np.uint16) + ignored > 255).astype(np.uint8)
    resized[ignored >= 128] = IGNORE
    return resized


def _resize_classes(mask: np.ndarray, height: int, width: int, classes: int) -> np.ndarray:
    resized = _resize_labels(np.where(mask == IGNORE, mask, (mask != 0).view(np.uint8)), height, width)
    most, winner = np.zeros((height, width), np.uint8), np.ones((height, width), np.uint8)
    for label in range(1, classes + 1):
        share = _resize(np.where(mask == label, np.uint8(255), np.uint8(0)), height, width)
        winner[share > most] = label
        np.maximum(most, share, out=most)
    return np.where(resized == 1, winner, resized)


def _box(mask: np.ndarray) -> Box:
    """Around what is not 0."""
    rows, columns = (np.flatnonzero(np.any(mask, axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, 0, 0
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _window(first: int, count: int, length: int, new_length: int) -> tuple[slice, slice]:
    """The stretch of an axis that matters, and where it comes to lie on an axis of another length.

    Both ends fall on borders that the old and the new pixels share, so that resizing the stretch alone is exact.
    """
    if not count:
        return slice(0, 0), slice(0, 0)
    if new_length > length:  # interpolation looks beyond the borders
        return slice(0, length), slice(0, new_length)
    shared = math.gcd(length, new_length)
    old, new = length // shared, new_length // shared
    begin, end = first // old, (first + count - 1) // old + 1
    return slice(begin * old, end * old), slice(begin * new, end * new)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averages over areas along axes that shrink, then interpolates along axes that grow."""
    smaller = (min(image.shape[1], width), min(image.shape[0], height))
    if smaller != (image.shape[1], image.shape[0]):
        kept = _kept(image.shape[0], smaller[1]), _kept(image.shape[1], smaller[0])
        if image.dtype == np.uint8 and image.size <= _SMALL and all(kept):
            image = _shrink_by_one(image, *kept)
        else:
            image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    if smaller != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def _kept(length: int, new_length: int) -> int:
    """2, 4, 6 or 8 where an axis keeps that many of one more: 4 of 5 where 320 becomes 256; else 0."""
    if new_length >= length:
        return 0
    kept, rest = divmod(new_length, length - new_length)
    return kept if rest == 0 and kept in (2, 4, 6, 8) else 0


def _shrink_by_one(image: np.ndarray, kept_rows: int, kept_columns: int) -> np.ndarray:
    """What OpenCV's INTER_AREA gives for uint8, in less than half the time: each new pixel covers two old ones an axis.

    An average is a whole number divided by an odd one, at most 81: none lies near the middle between two whole numbers,
    so that no order of adding rounds another way.
    """
    for kept, depth in ((kept_rows, cv2.CV_32F), (kept_columns, cv2.CV_8U)):
        size, dtype = kept + 1, np.float32 if depth == cv2.CV_32F else np.uint8
        shrunk = np.empty((len(image) // size * kept, *image.shape[1:]), dtype)
        for k in range(kept):
            shares = (kept - k) / size, (k + 1) / size
            rows = image[k::size], shares[0], image[k + 1 :: size], shares[1]
            cv2.addWeighted(*rows, 0, dst=shrunk[k::kept], dtype=depth)
        image = cv2.transpose(shrunk)
    return image


def _reduction(height: int, width: int, fit: tuple[int, int]) -> int:
    """The largest factor that divides both sides evenly and leaves enough for `fit`, in either orientation."""
    for factor in (8, 4, 2):
        if height % factor == width % factor == 0 and min(height, width) // factor >= max(fit):
            return factor
    return 1


def _check_png_chunks(data: bytes) -> None:
    position = len(_PNG)
    while position + 12 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        kind_and_body = data[position + 4 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        if len(checksum) < 4:
            break
        if zlib.crc32(kind_and_body) != int.from_bytes(checksum, "big"):
            raise UserError("the PNG is damaged (a checksum does not fit); copy or export it again.")
        if kind_and_body[:4] == b"IEND":
            return
        position += 12 + length
    raise UserError("the PNG is cut off (it has no end chunk); copy or export it again.")
