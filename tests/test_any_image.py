"""Every kind of image gives the same pixels, and whatever is no image is a UserError."""

import base64
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from seg.data import any_image
from seg.data.any_image import decode_base64, is_encoded, read_image
from seg.errors import UserError

FIT = (4, 4)
PICTURE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, image[..., ::-1])[1])


PNG = encode(PICTURE)
BASE64 = base64.b64encode(PNG).decode()


class TestKinds:
    @pytest.mark.parametrize(
        "image",
        [
            PNG,
            bytearray(PNG),
            memoryview(PNG),
            BASE64,
            base64.encodebytes(PNG).decode(),  # with line breaks
            f"data:image/png;base64,{BASE64}",
            f"data:image/png;name=a.png;base64,{BASE64}",
            PIL.Image.fromarray(PICTURE),
            PICTURE,
            np.dstack([PICTURE, np.zeros((6, 9), np.uint8)]),
            PICTURE.astype(np.uint16) * 257,
            PICTURE / 255,
            (PICTURE / 255).astype(np.float32),
        ],
        ids=[
            *("bytes", "bytearray", "memoryview", "base64", "base64 lines", "data URL", "data URL with name"),
            *("Pillow", "array", "alpha", "uint16", "float64", "float32"),
        ],
    )
    def test_the_same_pixels(self, image: Any) -> None:
        picture, height, width = read_image(image, fit=FIT)
        np.testing.assert_array_equal(picture, PICTURE)
        assert (height, width, picture.dtype) == (6, 9, np.uint8)

    def test_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "scan.png").write_bytes(PNG)
        monkeypatch.chdir(tmp_path)
        for path in (tmp_path / "scan.png", str(tmp_path / "scan.png"), Path("scan.png"), "scan.png"):
            np.testing.assert_array_equal(read_image(path, fit=FIT)[0], PICTURE)

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff"])
    def test_formats_as_bytes_and_base64(self, suffix: str) -> None:
        data = encode(PICTURE, suffix)
        assert is_encoded(data)
        as_bytes = read_image(data, fit=FIT)
        as_text = read_image(base64.b64encode(data).decode(), fit=FIT)
        np.testing.assert_array_equal(as_bytes[0], as_text[0])

    def test_a_large_jpeg_is_decoded_no_larger_than_needed(self) -> None:
        data = encode(np.zeros((64, 96, 3), np.uint8), ".jpg")
        picture, height, width = read_image(data, fit=(16, 16))
        assert (picture.shape, height, width) == ((16, 24, 3), 64, 96)

    def test_text_that_names_a_file_is_its_path_although_it_is_base64_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = base64.b64encode(b"BM another bitmap ...").decode()
        (tmp_path / name).write_bytes(PNG)
        monkeypatch.chdir(tmp_path)
        np.testing.assert_array_equal(read_image(name, fit=FIT)[0], PICTURE)

    def test_grey_is_repeated(self) -> None:
        for image in (np.array([[7]], np.uint8), np.array([[[7]]], np.uint8), np.array([[[7, 0]]], np.uint8)):
            assert read_image(image, fit=FIT)[0].tolist() == [[[7, 7, 7]]]


class TestPillow:
    @pytest.mark.parametrize(
        ("mode", "colour", "expected"),
        [
            ("1", 1, [255, 255, 255]),
            ("L", 7, [7, 7, 7]),
            ("LA", (7, 0), [7, 7, 7]),
            ("P", 0, [0, 0, 0]),  # of the palette that Pillow makes: 0 is black
            ("RGB", (1, 2, 3), [1, 2, 3]),
            ("RGBA", (1, 2, 3, 0), [1, 2, 3]),
            ("CMYK", (0, 0, 0, 0), [255, 255, 255]),  # no ink
            ("CMYK", (0, 0, 0, 255), [0, 0, 0]),
            ("YCbCr", (255, 128, 128), [255, 255, 255]),
            ("HSV", (0, 255, 255), [255, 0, 0]),
            ("I;16", 257, [1, 1, 1]),
            ("I", 257, [1, 1, 1]),
            ("F", 0.2, [51, 51, 51]),
        ],
    )
    def test_modes(self, mode: str, colour: Any, expected: list[int]) -> None:
        picture, height, width = read_image(PIL.Image.new(mode, (3, 2), colour), fit=FIT)
        assert (picture.shape, height, width) == ((2, 3, 3), 2, 3)
        assert (picture == expected).all()

    def test_a_palette(self) -> None:
        # Four colours become a palette of four; the indices 0 to 3 would be nearly black.
        image = PIL.Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [200, 200, 200]]], np.uint8))
        read = read_image(image.convert("P", palette=PIL.Image.Palette.ADAPTIVE), fit=FIT)[0]
        assert read.tolist() == np.asarray(image).tolist()

    def test_a_file_that_pillow_has_not_decoded_yet(self) -> None:
        with PIL.Image.open(io.BytesIO(PNG)) as image:
            np.testing.assert_array_equal(read_image(image, fit=FIT)[0], PICTURE)

    def test_numbers_beyond_16_bits(self) -> None:
        with pytest.raises(UserError, match="must be uint8, uint16, bool or floating point, got int32"):
            read_image(PIL.Image.new("I", (2, 2), 70_000), fit=FIT)

    def test_a_file_that_was_cut_off(self) -> None:
        data = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        image = PIL.Image.open(io.BytesIO(data[:2000]))
        with image, pytest.raises(UserError, match="Pillow image cannot be decoded"):
            read_image(image, fit=FIT)

    def test_a_size_that_is_too_large_is_not_unpacked(self) -> None:
        class Huge:
            mode, size = "L", (60_000, 50_000)

            def convert(self, mode: str) -> None:
                raise AssertionError("unpacked")

        with pytest.raises(UserError, match="got 60000×50000; make it smaller"):
            read_image(Huge(), fit=FIT)


class TestNoImages:
    @pytest.mark.parametrize("image", [None, 7, [[0]], {"image": PNG}, io.BytesIO(PNG)])
    def test_another_kind(self, image: Any) -> None:
        kind = type(image).__name__
        with pytest.raises(UserError, match=rf"a Pillow image or a NumPy array, got {kind}; convert it"):
            read_image(image, fit=FIT)

    @pytest.mark.parametrize("text", ["", "nowhere.png", "/9j/nowhere.png", "AAAA", "a\0b", "é", "x" * 5000, "\ud800"])
    def test_text_that_is_neither_path_nor_image(self, text: str) -> None:
        with pytest.raises(UserError, match="must be the path of a file, or base64 of one, got") as raised:
            read_image(text, fit=FIT)
        assert len(str(raised.value)) < 150

    @pytest.mark.parametrize("url", ["data:", "data:image/png,abc", "data:image/png;base64"])
    def test_a_data_url_without_base64(self, url: str) -> None:
        with pytest.raises(UserError, match="a data: URL must hold base64, got 'data:"):
            read_image(url, fit=FIT)

    def test_base64_that_is_none(self) -> None:
        for text in ("data:image/png;base64,a-b", b"a-b", "é", b"\xff"):
            with pytest.raises(UserError, match="an image as text must be base64, got"):
                decode_base64(text)

    def test_a_broken_file_in_base64(self) -> None:
        with pytest.raises(UserError, match="the PNG is cut off"):
            read_image(base64.b64encode(PNG[:60]).decode(), fit=FIT)

    @pytest.mark.parametrize(
        "path", [Path("nowhere.png"), Path("a\0b"), Path("x" * 5000), Path("/"), Path("/dev/zero")]
    )
    def test_a_path_that_names_no_file(self, path: Path) -> None:
        with pytest.raises(UserError, match="an image's path must name a file, got"):
            read_image(path, fit=FIT)

    def test_a_file_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: Any) -> None:
            raise PermissionError(13, "Permission denied")

        (tmp_path / "scan.png").write_bytes(PNG)
        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(UserError, match="scan.png cannot be read .Permission denied."):
            read_image(tmp_path / "scan.png", fit=FIT)

    def test_a_file_that_is_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "scan.png").write_bytes(PNG)
        monkeypatch.setattr(any_image, "MAX_BYTES", len(PNG) - 1)
        with pytest.raises(UserError, match=f"at most {len(PNG) - 1} bytes, .*scan.png has more"):
            read_image(tmp_path / "scan.png", fit=FIT)

    def test_an_array_that_is_too_large(self) -> None:
        with pytest.raises(UserError, match="sides of at most 32768, got 40000×1; make it smaller"):
            read_image(np.zeros((1, 40_000), np.uint8), fit=FIT)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(), st.binary(), st.binary().map(lambda data: base64.b64encode(data).decode())))
def test_text_and_bytes_are_read_or_refused(image: str | bytes) -> None:
    with suppress(UserError):
        assert read_image(image, fit=FIT)[0].dtype == np.uint8


@settings(max_examples=100, deadline=None)
@given(
    npst.arrays(
        st.one_of(npst.scalar_dtypes(), st.just(np.dtype(object))),
        npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_arrays_are_read_or_refused(image: np.ndarray) -> None:
    with suppress(UserError):
        picture, height, width = read_image(image, fit=FIT)
        assert picture.shape == (height, width, 3)
        assert picture.dtype == np.uint8
