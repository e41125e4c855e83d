"""JPEGs are decoded by simplejpeg where it finds nothing unusual; nobody can tell but by the time that it takes."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from seg.data import images
from seg.data.decoder_lines import DecoderLines
from seg.data.images import decode_image
from seg.data.jpeg import decode_usual_jpeg
from seg.errors import UserError
from tests.fuzz.pictures import lossless_jpeg

SAMPLINGS = (
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)
FITS = (None, (1, 1), (5, 5), (9, 9), (17, 17))


@pytest.fixture(scope="module")
def lines() -> Iterator[DecoderLines]:
    yield DecoderLines()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@st.composite
def jpegs(draw: st.DrawFn) -> bytes:
    """Of all kinds that OpenCV writes, at sizes of which some halve evenly."""
    height, width = draw(st.integers(1, 72)), draw(st.sampled_from([8, 16, 33, 40, 64]))
    colours = draw(st.sampled_from([1, 3]))
    rough = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (5, 5, colours), np.uint8)
    picture = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    options = [cv2.IMWRITE_JPEG_QUALITY, draw(st.sampled_from([10, 75, 100]))]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, draw(st.sampled_from(SAMPLINGS))] if colours == 3 else []
    options += [
        cv2.IMWRITE_JPEG_PROGRESSIVE,
        draw(st.integers(0, 1)),
        cv2.IMWRITE_JPEG_OPTIMIZE,
        draw(st.integers(0, 1)),
    ]
    options += [cv2.IMWRITE_JPEG_RST_INTERVAL, draw(st.sampled_from([0, 1, 3]))]
    return cv2.imencode(".jpg", picture, options)[1].tobytes()


def outcome(data: bytes, fit: tuple[int, int] | None, lines: DecoderLines) -> np.ndarray | str:
    """The image, or why it is refused."""
    try:
        with lines:
            return decode_image(data, fit=fit)
    except UserError as error:
        return str(error)


def same_without_simplejpeg(data: bytes, fit: tuple[int, int] | None, lines: DecoderLines) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "decode_usual_jpeg", lambda *of: None)
        wanted = outcome(data, fit, lines)
    found = outcome(data, fit, lines)
    return found == wanted if isinstance(found, str) else np.array_equal(found, wanted)


@given(data=jpegs(), fit=st.sampled_from(FITS))
def test_every_kind_is_decoded_to_what_opencv_gives(data: bytes, fit: tuple[int, int] | None) -> None:
    size = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    wanted = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(decode_usual_jpeg(data, size, size), wanted)  # it is not left to OpenCV
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "decode_usual_jpeg", lambda *of: None)
        by_opencv = decode_image(data, fit=fit)
    assert np.array_equal(decode_image(data, fit=fit), by_opencv)


@given(data=jpegs(), fit=st.sampled_from(FITS), changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3))))
def test_damage_is_found_and_told_as_by_opencv_alone(
    data: bytes, fit: tuple[int, int] | None, changes: list[tuple[float, bytes]], lines: DecoderLines
) -> None:
    for place, put in changes:
        at = round(place * len(data))
        data = data[:at] + put + data[at + 1 :]
    assert same_without_simplejpeg(data, fit, lines)


@given(data=jpegs(), share=st.floats(0, 1))
def test_a_cut_file_is_refused_as_by_opencv_alone(data: bytes, share: float, lines: DecoderLines) -> None:
    assert same_without_simplejpeg(data[: round(share * len(data))] + b"\xff\xd9", None, lines)


@pytest.mark.parametrize("hidden", [b"", b"\xff", b"\xff\x00\x00\x04ab"], ids=["plain", "filled", "behind a zero"])
def test_a_lossless_one_is_never_made_smaller_by_simplejpeg(hidden: bytes) -> None:
    """It would write beyond the smaller image's end, and the process would die."""
    data = lossless_jpeg(512)
    assert decode_usual_jpeg(data[:2] + hidden + data[2:], (512, 512), (64, 64)) is None


def test_a_lossless_one_is_decoded_at_its_size() -> None:
    wanted = np.full((64, 64, 3), 128, np.uint8)
    assert np.array_equal(simplejpeg.decode_jpeg(lossless_jpeg(64)), wanted)
    assert np.array_equal(decode_usual_jpeg(lossless_jpeg(64), (64, 64), (64, 64)), wanted)


def test_a_sampling_without_a_name_is_left_to_opencv() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[-1]])[1].tobytes()
    place = data.index(b"\xff\xc0") + 11
    assert data[place] == 0x11
    data = data[:place] + b"\x14" + data[place + 1 :]
    with pytest.raises(KeyError):
        simplejpeg.decode_jpeg_header(data)
    assert decode_usual_jpeg(data, (64, 64), (64, 64)) is None
    decode_image(data)


def test_what_is_unusual_is_left_to_opencv() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    assert decode_usual_jpeg(data, (16, 8), (16, 8)) is None  # another size than the caller read
    assert decode_usual_jpeg(data[: len(data) // 2] + b"\xff\xd9", (16, 16), (16, 16)) is None
