import io
import struct
import zlib
from contextlib import suppress

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg.data.demo import _exif_orientation
from seg.data.images import (
    MAX_PIXELS,
    _resize,
    decode_image,
    header_size,
    resize_image,
    resize_mask,
    resize_probability,
    to_rgb8,
)
from seg.errors import UserError

COLOURS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3  # RGB


def encode(image: np.ndarray, suffix: str = ".png", *options: int) -> bytes:
    return cv2.imencode(suffix, image, list(options))[1].tobytes()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


class TestDecode:
    @pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
    def test_lossless_formats_keep_every_pixel(self, suffix):
        data = encode(COLOURS[..., ::-1], suffix)
        assert header_size(data) == (4, 6)
        assert np.array_equal(decode_image(data), COLOURS)

    def test_jpeg_is_decoded_in_rgb(self):
        red = np.zeros((16, 24, 3), np.uint8)
        red[..., 2] = 200  # OpenCV's order is BGR
        image = decode_image(encode(red, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100))
        assert image.shape == (16, 24, 3)
        assert np.abs(image.astype(int) - [200, 0, 0]).max() <= 2

    def test_grey_is_repeated(self):
        grey = COLOURS[..., 0]
        assert np.array_equal(decode_image(encode(grey)), np.stack([grey] * 3, axis=-1))

    def test_alpha_is_dropped(self):
        transparent = np.dstack([COLOURS[..., ::-1], np.zeros((4, 6), np.uint8)])
        assert np.array_equal(decode_image(encode(transparent)), COLOURS)

    def test_16_bit_is_divided_by_257(self):
        deep = np.array([[0, 257, 385, 386, 65535]], np.uint16)  # 385 / 257 = 1.498, 386 / 257 = 1.502
        assert decode_image(encode(deep))[0, :, 0].tolist() == [0, 1, 1, 2, 255]

    def test_16_bit_rows_are_all_converted(self):
        deep = np.full((2500, 1), 514, np.uint16)  # more rows than are converted at once
        assert (decode_image(encode(deep)) == 2).all()

    def test_1_bit(self):
        data = png(8, 1, 1, 0, b"\0\xa5")
        assert decode_image(data)[0, :, 0].tolist() == [255, 0, 255, 0, 0, 255, 0, 255]

    def test_palette(self):
        data = png(2, 1, 8, 3, b"\0\1\0", png_chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])))
        assert decode_image(data).tolist() == [[[40, 50, 60], [10, 20, 30]]]

    def test_exif_rotation_only_when_asked(self):
        data = encode(np.zeros((8, 16), np.uint8), ".jpg")
        data = data[:2] + _exif_orientation(6) + data[2:]
        assert decode_image(data).shape == (8, 16, 3)
        assert decode_image(data, exif=True).shape == (16, 8, 3)


class TestRefusal:
    def test_empty(self):
        with pytest.raises(UserError, match="image file is empty"):
            decode_image(b"")

    def test_html_named_jpg(self):
        with pytest.raises(UserError, match="must be a JPEG, PNG, BMP or TIFF file, this one begins with '<!DOCTYPE"):
            decode_image(b"<!DOCTYPE html><html>")

    @pytest.mark.parametrize(
        "data", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0", b"BM12", b"II*\0\x08", b"II*\0\x08\0\0\0\0\0"]
    )
    def test_ends_within_header(self, data):
        with pytest.raises(UserError, match="ends within its header"):
            decode_image(data)

    def test_damaged_jpeg_header(self):
        with pytest.raises(UserError, match="JPEG's header is damaged"):
            decode_image(b"\xff\xd8\x00\x00")

    def test_jpeg_without_size(self):
        with pytest.raises(UserError, match="JPEG's header states no size"):
            decode_image(b"\xff\xd8\xff\xda\x00\x02")

    def test_size_zero(self):
        with pytest.raises(UserError, match="states a size of 0×4"):
            decode_image(png(0, 4, 8, 0, b""))

    @pytest.mark.parametrize("size", [(60_000, 60_000), (MAX_PIXELS, 1)])
    def test_decompression_bomb_is_judged_from_the_header(self, size):
        with pytest.raises(UserError, match=f"at most {MAX_PIXELS} pixels.* got {size[0]}×{size[1]}"):
            decode_image(png(*size, 8, 0, b""))

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    def test_cut_off(self, suffix, share):
        data = encode(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8), suffix)
        with pytest.raises(UserError, match="is cut off"):
            decode_image(data[: int(len(data) * share)])

    def test_damaged_png(self):
        data = bytearray(encode(COLOURS))
        data[50] ^= 255
        with pytest.raises(UserError, match="a checksum does not fit"):
            decode_image(bytes(data))

    @pytest.mark.parametrize(
        "entry", [(257, 3, 1, 9), (256, 1, 1, 8), (256, 3, 2, 8)], ids=["twice", "of another type", "of two numbers"]
    )
    def test_tiff_whose_size_can_be_read_in_two_ways(self, entry):
        data = encode(COLOURS, ".tiff")
        (directory,) = struct.unpack("<I", data[4:8])
        # over the last of its entries, whose tag is no size
        (count,) = struct.unpack("<H", data[directory : directory + 2])
        last = directory + 2 + 12 * (count - 1)
        with pytest.raises(UserError, match="must state one width and one height"):
            decode_image(data[:last] + struct.pack("<HHII", *entry) + data[last + 12 :])

    def test_decoder_that_finds_another_size(self, monkeypatch):
        monkeypatch.setattr(cv2, "imdecode", lambda data, flags: np.zeros((5, 6, 3), np.uint8))
        with pytest.raises(UserError, match="states a size of 6×4, and it decodes to another one .6×5."):
            decode_image(encode(COLOURS))

    def test_undecodable(self):
        with pytest.raises(UserError, match="damaged and cannot be decoded"):
            decode_image(b"BM" + bytes(16) + struct.pack("<ii", 4, 4) + b"rest")

    @given(st.binary(max_size=60), st.sampled_from([".png", ".jpg", ".bmp", ".tiff"]), st.integers(0, 400))
    @settings(deadline=None)
    def test_damage_anywhere_is_refused_or_decoded(self, damage, suffix, position):
        data = encode(COLOURS, suffix)
        data = data[:position] + damage + data[position + len(damage) :]
        with suppress(UserError):
            assert decode_image(data).dtype == np.uint8


class TestToRgb8:
    @pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 2), (4, 6, 3), (4, 6, 4)])
    def test_shapes(self, shape):
        assert to_rgb8(np.zeros(shape, np.uint8)).shape == (4, 6, 3)

    def test_types(self):
        assert to_rgb8(np.array([[False, True]]))[0, :, 0].tolist() == [0, 255]
        assert to_rgb8(np.array([[0.0, 0.5, 1.0]]))[0, :, 0].tolist() == [0, 128, 255]
        for sixteen_bits in (np.uint16, ">u2", "<u2"):
            assert to_rgb8(np.array([[0, 257, 65535]], sixteen_bits))[0, :, 0].tolist() == [0, 1, 255]

    def test_alpha_is_dropped(self):
        assert to_rgb8(np.array([[[7, 0]]], np.uint8)).tolist() == [[[7, 7, 7]]]
        assert to_rgb8(np.array([[[1, 2, 3, 0]]], np.uint8)).tolist() == [[[1, 2, 3]]]

    @pytest.mark.parametrize("shape", [(6,), (2, 4, 6, 3), (4, 6, 5), (0, 6, 3)])
    def test_other_shapes(self, shape):
        with pytest.raises(UserError, match="must have shape"):
            to_rgb8(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), 200.0])
    def test_floats_outside_0_to_1(self, value):
        with pytest.raises(UserError, match=r"must lie in \[0, 1\]"):
            to_rgb8(np.array([[0.5, value]]))

    def test_other_types(self):
        with pytest.raises(UserError, match="got int32"):
            to_rgb8(np.zeros((2, 2), np.int32))


class TestResize:
    def test_shrinking_averages_the_covered_area(self):
        image = np.array([[0, 10, 20, 30], [40, 50, 60, 70]], np.uint8)
        colour = np.stack([image, image + 1, image], axis=-1)
        # means of the left and the right 2 × 2 block: 25 and 45
        assert resize_image(colour, 1, 2).tolist() == [[[25, 26, 25], [45, 46, 45]]]

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("rows", [2, 4, 6, 8])
    @pytest.mark.parametrize("columns", [2, 4, 6, 8])
    def test_keeping_a_few_of_one_more_is_opencvs_area(self, rows, columns, channels):
        random = np.random.default_rng(rows * columns)
        for places in (1, 2, 40):
            size = (places * (rows + 1), places * (columns + 1))
            smaller = (places * rows, places * columns)
            noise = random.integers(0, 256, (*size, channels), np.uint8).squeeze()
            extremes = random.choice(np.array([0, 1, 254, 255], np.uint8), noise.shape)
            for image in (noise, extremes):
                expected = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
                assert np.array_equal(_resize(image, *smaller), expected)

    @given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
    @settings(deadline=None)
    def test_shrinking_is_opencvs_area(self, height, width, new_height, new_width):
        smaller = min(height, new_height), min(width, new_width)
        image = np.random.default_rng(height).integers(0, 256, (height, width), np.uint8)
        expected = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
        assert np.array_equal(_resize(image, *smaller), expected)

    def test_keeping_four_of_five(self):
        # The old pixels are 4 long and the new ones 5: (4·0 + 1·100) / 5, (3·100 + 2·50) / 5, (2·50 + 3·7) / 5 = 24.2,
        # (1·7 + 4·255) / 5 = 205.4; the same rows five times.
        image = np.array([[0, 100, 50, 7, 255]] * 5, np.uint8)
        assert _resize(image, 4, 4).tolist() == [[20, 80, 24, 205]] * 4

    def test_growing_interpolates_between_pixel_centres(self):
        image = np.stack([np.array([[0, 100]], np.uint8)] * 3, axis=-1)
        # centres of the four new pixels lie at 0.25, 0.75, 1.25 and 1.75; those of the old ones at 0.5 and 1.5
        assert resize_image(image, 1, 4)[0, :, 0].tolist() == [0, 25, 75, 100]

    def test_one_axis_shrinks_while_the_other_grows(self):
        image = np.stack([np.array([[0, 100], [20, 120]], np.uint8)] * 3, axis=-1)
        assert resize_image(image, 1, 4)[0, :, 0].tolist() == [10, 35, 85, 110]

    @pytest.mark.parametrize("pixel", [0, 2**15 - 1, 2**15, 299_999])  # grey is looked for 2**15 pixels at a time
    @pytest.mark.parametrize("channel", [0, 1, 2])
    def test_one_pixel_of_colour_is_kept(self, pixel, channel):
        image = np.repeat(np.random.default_rng(0).integers(0, 255, (500, 600, 1), np.uint8), 3, axis=2)
        image.reshape(-1, 3)[pixel, channel] += 1
        assert np.array_equal(resize_image(image, 500, 600), image)

    def test_grey_gives_the_same_as_each_channel_of_colour(self):
        grey = np.random.default_rng(0).integers(0, 256, (50, 70), np.uint8)
        colour = np.dstack([grey, grey, 255 - grey])
        for size in ((20, 30), (80, 90), (25, 100)):
            assert np.array_equal(
                resize_image(np.dstack([grey] * 3), *size)[..., 0], resize_image(colour, *size)[..., 0]
            )

    def test_colour_in_the_last_row_only_is_kept(self):
        image = np.zeros((2500, 1, 3), np.uint8)  # more rows than are looked at at once
        image[-1] = [9, 0, 0]
        assert resize_image(image, 2500, 1)[-1, 0].tolist() == [9, 0, 0]

    def test_same_size_changes_nothing(self):
        assert np.array_equal(resize_image(COLOURS, 4, 6), COLOURS)

    def test_mask_is_the_majority_of_the_area(self):
        mask = np.array([[1, 0, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1]], np.uint8)  # shares 2/4, 3/4, 1/4
        assert resize_mask(mask, 1, 3).tolist() == [[1, 1, 0]]

    def test_ignored_pixels(self):
        # shares of foreground and of ignored, in quarters: 2 + 1, 1 + 1, 1 + 2, 0 + 1
        mask = np.array([[1, 1, 1, 255, 1, 255, 255, 0], [0, 255, 0, 0, 0, 255, 0, 0]], np.uint8)
        # 2 of the 3 known are foreground; 1 of 3; half is ignored; none
        assert resize_mask(mask, 1, 4).tolist() == [[1, 0, 255, 0]]

    @given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**16))
    @settings(deadline=None)
    def test_a_known_box_changes_nothing(self, height, width, new_height, new_width, seed):
        random = np.random.default_rng(seed)
        mask = np.zeros((height, width), np.uint8)
        left, top = random.integers(0, width), random.integers(0, height)
        mask[top : top + 9, left : left + 9] = 255
        box = (left, top, min(9, width - left), min(9, height - top))
        whole = resize_mask(mask, new_height, new_width, box=(0, 0, width, height))
        for found in (resize_mask(mask, new_height, new_width), resize_mask(mask, new_height, new_width, box=box)):
            assert np.array_equal(found, whole)

    def test_an_empty_box(self):
        assert not resize_mask(np.zeros((9, 9), np.uint8), 3, 3, box=(0, 0, 0, 0)).any()

    def test_probability_keeps_its_mean_and_its_alignment(self):
        probability = np.array([[0.0, 1.0], [0.5, 0.5]])
        assert resize_probability(probability, 1, 1).tolist() == [[0.5]]
        assert resize_probability(np.array([[0.0, 1.0]]), 1, 4).tolist() == [[0.0, 0.25, 0.75, 1.0]]

    @given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
    @settings(deadline=None)
    def test_masks_keep_to_their_values(self, height, width, new_height, new_width):
        mask = np.random.default_rng(height).choice(np.array([0, 1, 255], np.uint8), (height, width))
        resized = resize_mask(mask, new_height, new_width)
        assert resized.shape == (new_height, new_width)
        assert set(np.unique(resized)) <= {0, 1, 255}


class TestFit:
    """Decoding at a fraction of the size."""

    @pytest.mark.parametrize(
        ("size", "fit", "expected"),
        [
            ((64, 96), (16, 16), (16, 24)),  # a quarter; an eighth would be 8 × 12
            ((64, 96), (17, 16), (32, 48)),
            ((64, 96), (64, 64), (64, 96)),
            ((66, 96), (16, 16), (33, 48)),  # 66 is no multiple of 4
            ((65, 96), (16, 16), (65, 96)),
            ((64, 96), None, (64, 96)),
        ],
    )
    def test_size(self, size, fit, expected):
        assert decode_image(encode(np.zeros(size, np.uint8), ".jpg"), fit=fit).shape[:2] == expected

    def test_other_formats_are_decoded_whole(self):
        assert decode_image(encode(np.zeros((64, 64), np.uint8)), fit=(8, 8)).shape == (64, 64, 3)

    def test_is_rgb(self):
        red = np.zeros((64, 64, 3), np.uint8)
        red[..., 2] = 200
        assert np.abs(decode_image(encode(red, ".jpg"), fit=(32, 32)).astype(int) - [200, 0, 0]).max() <= 2

    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    def test_is_opencvs_bgr_turned_round(self, mode):
        pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 4), np.uint8)
        shape = {"RGB": pixels[..., :3], "L": pixels[..., 0], "CMYK": pixels}[mode]
        file = io.BytesIO()
        PIL.Image.frombytes(mode, (96, 64), shape.tobytes()).save(file, "JPEG")
        data = file.getvalue()
        reduced = {
            (32, 48): cv2.IMREAD_REDUCED_COLOR_2,
            (16, 24): cv2.IMREAD_REDUCED_COLOR_4,
            (8, 12): cv2.IMREAD_REDUCED_COLOR_8,
        }
        for size, flag in reduced.items():
            expected = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
            assert np.array_equal(decode_image(data, fit=(size[0], size[0])), expected)

    def test_record_is_nearly_that_of_the_whole_image(self):
        rows, columns = np.mgrid[0:640, 0:640]
        smooth = 127 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 13)
        noisy = smooth + np.random.default_rng(0).normal(0, 5, smooth.shape)
        data = encode(np.clip(noisy, 0, 255).astype(np.uint8), ".jpg")
        whole = resize_image(decode_image(data), 256, 256)
        fitted = resize_image(decode_image(data, fit=(256, 256)), 256, 256)
        assert np.abs(whole.astype(int) - fitted).mean() < 1.5
