"""TIFFs written by hand, tag by tag, against the arrays that they hold."""

import io
import struct
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image  # Matplotlib requires it; OpenCV writes no alpha that is not multiplied in

from seg.data.images import decode_image, header_size, silence_opencv
from seg.errors import UserError

SHORT, LONG = 3, 4


def tiff(image: np.ndarray, order: str = "<", **changes: Any) -> bytes:
    """An uncompressed TIFF of one strip; `changes` are tags, such as `t338=2`, with one number or several."""
    image = np.atleast_3d(image)
    height, width, channels = image.shape
    data = image.astype(image.dtype.newbyteorder(order)).tobytes()
    tags: dict[int, tuple[int, list[int]]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [image.dtype.itemsize * 8] * channels),
        259: (SHORT, [1]),
        262: (SHORT, [1 if channels < 3 else 2]),
        273: (LONG, [0]),
        277: (SHORT, [channels]),
        278: (LONG, [height]),
        279: (LONG, [len(data)]),
        284: (SHORT, [1]),
    }
    for tag, value in changes.items():
        tags[int(tag[1:])] = (SHORT, value if isinstance(value, list) else [value])
    start = 8 + 2 + 12 * len(tags) + 4
    long = sum(2 * len(numbers) for kind, numbers in tags.values() if kind == SHORT and len(numbers) > 2)
    tags[273] = (LONG, [start + long])
    entries = behind = b""
    for tag, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(order + ("H" if kind == SHORT else "I") * len(numbers), *numbers)
        if len(packed) > 4:
            packed, behind = struct.pack(order + "I", start + len(behind)), behind + packed
        entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    signature = b"II*\0" if order == "<" else b"MM\0*"
    head = signature + struct.pack(order + "IH", 8, len(tags))
    return head + entries + bytes(4) + behind + data


def expected(image: np.ndarray) -> np.ndarray:
    """What an image of 1 to 4 channels means: grey repeated, alpha dropped, 16 bits over 257."""
    colour = image[..., :1].repeat(3, axis=2) if image.shape[2] < 3 else image[..., :3]
    return np.rint(colour / 257).astype(np.uint8) if image.dtype == np.uint16 else colour


ARRAYS = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.sampled_from([np.uint8, np.uint16]))


@given(ARRAYS, st.sampled_from("<>"), st.sampled_from([0, 1, 2]), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_every_depth_and_every_number_of_channels(array, order, alpha, seed):
    *shape, kind = array
    image = np.random.default_rng(seed).integers(0, np.iinfo(kind).max + 1, shape, dtype=kind)
    data = tiff(image, order, **({"t338": alpha} if shape[2] in (2, 4) else {}))
    assert header_size(data) == image.shape[:2]
    if kind == np.uint16 and shape[2] == 2:  # grey with alpha: OpenCV drops the lower 8 bits
        assert np.array_equal(decode_image(data), (image[..., :1] >> 8).repeat(3, axis=2))
    else:
        assert np.array_equal(decode_image(data), expected(image))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_what_opencv_writes(suffix, channels, kind):
    image = np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, (40, 30, channels), dtype=kind)
    stored = image if channels == 1 else image[..., [2, 1, 0, 3][:channels]]  # OpenCV's order is BGR
    data = cv2.imencode(suffix, stored)[1].tobytes()
    assert np.array_equal(decode_image(data), expected(image))


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_colours_under_transparent_pixels_count(suffix, compression):
    image = np.full((20, 30, 4), [50, 200, 200, 100], np.uint8)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, suffix, **({"compression": compression} if suffix == "TIFF" else {}))
    assert decode_image(stream.getvalue())[0, 0].tolist() == [50, 200, 200]


def test_white_as_zero():
    assert decode_image(tiff(np.array([[0, 200]], np.uint8), t262=0))[0, :, 0].tolist() == [255, 55]


@pytest.mark.parametrize(("bits", "data"), [(12, [0xABC0, 0xABC0]), (10, [0xFFC0, 0xFFC0])])
def test_depths_between(bits, data):
    packed = tiff(np.array([[0, 0]], np.uint16), t258=bits)[:-4]
    packed += {12: b"\xab\xca\xbc\0", 10: b"\xff\xff\xff\0"}[bits]
    assert decode_image(packed)[0, :, 0].tolist() == [round(number / 257) for number in data]


@pytest.mark.parametrize(
    ("image", "changes", "message"),
    [
        (np.zeros((4, 6), np.float32), {"t339": 3}, "has 32 bits of floating point; choose the window"),
        (np.zeros((4, 6, 3), np.float32), {"t339": [3, 3, 3]}, "has 32 bits of floating point"),
        (np.zeros((4, 6), np.float16), {"t339": 3}, "has 16 bits of floating point"),
        (np.zeros((4, 6), np.uint32), {}, "has 32 bits of unsigned integers"),
        (np.zeros((4, 6), np.int32), {"t339": 2}, "has 32 bits of signed integers"),
        (np.zeros((4, 6), np.int16), {"t339": 2}, "has 16 bits of signed integers"),
        (np.zeros((4, 6), np.uint8), {"t258": 2}, "has 2 bits of unsigned integers"),
        (np.zeros((4, 6), np.uint8), {"t259": 999}, "compression must be known, got 999"),
        (np.zeros((4, 6, 5), np.uint8), {}, "must have 1 to 4 channels, this one has 5"),
        (np.zeros((4, 6), np.uint16), {"t262": 0}, "16 bits must be grey with black as zero, or RGB"),
        (np.zeros((4, 6, 3), np.uint16), {"t284": 2}, "with the channels of a pixel side by side"),
    ],
)
def test_what_cannot_be_decoded_is_told_and_opencv_is_silent(image, changes, message, capfd):
    with pytest.raises(UserError, match=message):
        decode_image(tiff(image, **changes))
    assert capfd.readouterr().err == ""


def test_a_damaged_file_leaves_opencv_silent(capfd):
    silence_opencv.cache_clear()  # an earlier test may have listened to OpenCV
    with pytest.raises(UserError, match="damaged and cannot be decoded"):
        decode_image(tiff(np.zeros((4, 6), np.uint16), t259=8))  # no deflated data
    assert capfd.readouterr().err == ""


def test_field_of_another_type():
    data = bytearray(tiff(np.zeros((4, 6), np.uint8)))
    place = data.index(struct.pack("<HH", 277, SHORT))
    data[place + 2] = 5  # a fraction
    with pytest.raises(UserError, match="must state its channels once, as an integer"):
        decode_image(bytes(data))
