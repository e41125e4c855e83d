"""Damage within JPEGs and TIFFs, made with OpenCV's own encoder."""

import os

import cv2
import numpy as np
import pytest

from seg.data.convert import BadDataError, convert
from seg.data.decoder_lines import DecoderLines
from seg.data.images import decode_image
from seg.errors import UserError
from tests.small_export import content, write_export

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def jpeg(*options: int) -> bytes:
    return cv2.imencode(".jpg", NOISE, list(options))[1].tobytes()


def cut(data: bytes) -> bytes:
    """Half of the data, with an end marker."""
    return data[: len(data) // 2] + b"\xff\xd9"


def restart_marker_missing() -> bytes:
    data = jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 4)
    place = data.index(b"\xff\xd2")
    return data[:place] + b"\xff\xd5" + data[place + 2 :]


def tiff() -> bytes:
    data = bytearray(cv2.imencode(".tiff", NOISE, [cv2.IMWRITE_TIFF_COMPRESSION, 8])[1].tobytes())
    data[1000:1100] = bytes(100)
    return bytes(data)


DAMAGED = {
    "cut.jpg": (cut(jpeg()), "the JPEG is damaged .premature end of data segment."),
    "progressive.jpg": (cut(jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)), "the JPEG is damaged"),
    "restart.jpg": (restart_marker_missing(), "found marker 0xd5 instead of RST2"),
    "compressed.tiff": (tiff(), "the TIFF is damaged"),
}


@pytest.fixture(scope="module")
def lines():
    yield DecoderLines()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@pytest.mark.parametrize(("data", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_that_the_decoder_fills_in(lines, data, message, capfd):
    decode_image(data)
    capfd.readouterr()
    for _ in range(2):  # the second is not told what the first was
        with pytest.raises(UserError, match=message), lines:
            decode_image(data)
        with lines:
            decode_image(jpeg())
    assert capfd.readouterr().err == ""


def test_bytes_behind_the_image_harm_nothing(lines, capfd):
    data = jpeg()
    with lines:
        image = decode_image(data[:-2] + bytes(20) + data[-2:])
    assert np.array_equal(image, decode_image(data))
    assert capfd.readouterr().err == ""


def test_other_lines_reach_the_terminal(lines, capfd):
    with lines:
        os.write(2, b"for people\n")
        decode_image(jpeg())
    os.write(2, b"and this\n")
    assert capfd.readouterr().err == "for people\nand this\n"


def test_what_the_block_raises_comes_first(lines, capfd):
    def decode_both() -> None:
        with lines:
            decode_image(cut(jpeg()))
            decode_image(b"")

    with pytest.raises(UserError, match="image file is empty"):
        decode_both()
    assert capfd.readouterr().err == ""


def test_without_a_terminal(tmp_path):
    child = os.fork()
    if not child:
        os.close(2)
        try:
            with DecoderLines():
                decode_image(cut(jpeg()))
        except UserError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_conversion_names_the_files(tmp_path, capfd):
    document = content(len(DAMAGED) + 1, height=64, width=64)
    data = write_export(tmp_path / "data", train=document)
    for image, (file, _) in zip(document["images"], DAMAGED.values(), strict=False):
        (data / "train" / image["file_name"]).write_bytes(file)
    with pytest.raises(BadDataError) as caught:
        convert(data, tmp_path / "workspace", image_size=16, jobs=1, progress=False)
    assert [problem.rule for problem in caught.value.problems] == ["image_refused"] * len(DAMAGED)
    assert {problem.file_name for problem in caught.value.problems} == {f"image{n}.png" for n in range(len(DAMAGED))}
    assert capfd.readouterr().err == ""
