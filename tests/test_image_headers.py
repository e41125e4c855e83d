"""What the audit reads from image headers; the files are written by OpenCV or by hand."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.data.audit.headers import Header, read_header


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, image, list(options))[1].tobytes()


GREY = np.zeros((4, 6), np.uint8)
COLOUR = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(".png", GREY), Header(format="PNG", channels=1, bits=8)),
        (encoded(".png", COLOUR.astype(np.uint16)), Header(format="PNG", channels=3, bits=16)),
        (encoded(".png", np.zeros((4, 6, 4), np.uint8)), Header(format="PNG", channels=4, bits=8)),
        (encoded(".png", GREY, cv2.IMWRITE_PNG_BILEVEL, 1), Header(format="PNG", channels=1, bits=1)),
        (encoded(".jpg", COLOUR), Header(format="JPEG", channels=3, bits=8)),
        (encoded(".jpg", GREY), Header(format="JPEG", channels=1, bits=8)),
        (encoded(".bmp", COLOUR), Header(format="BMP", channels=3, bits=8)),
        (encoded(".tif", COLOUR.astype(np.uint16)), Header(format="TIFF", channels=3, bits=16)),
        (encoded(".tif", GREY), Header(format="TIFF", channels=1, bits=8)),
        (b"<html>", Header(format="unknown")),
        (b"", Header(format="unknown")),
    ],
)
def test_formats(data, expected):
    assert read_header(data) == expected


def test_alpha():
    assert read_header(encoded(".png", np.zeros((4, 6, 4), np.uint8))).alpha
    assert not Header(format="JPEG", channels=4).alpha  # CMYK


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation(order):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0" + mark + struct.pack(order + "IH", 8, 1) + entry
    jpeg = encoded(".jpg", COLOUR)
    data = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert read_header(data) == Header(format="JPEG", channels=3, bits=8, orientation=6)


@given(st.sampled_from([b"", b"\xff\xd8", b"BM", b"II*\0", b"MM\0*", b"\x89PNG\r\n\x1a\n"]), st.binary(max_size=200))
def test_never_raises(start, rest):
    assert isinstance(read_header(start + rest), Header)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_cut_off_anywhere(suffix):
    whole = encoded(suffix, COLOUR)
    for length in range(len(whole)):
        assert isinstance(read_header(whole[:length]), Header)
