import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seg.errors import UserError
from seg.overlay import GREY, PURPLE, SKY_BLUE, VERMILION, YELLOW, coloured, overlay, panel, tiles


def example(height, width):
    """A grey image whose truth is the left and whose prediction is the upper half."""
    image = np.full((height, width, 3), 120, np.uint8)
    truth, prediction = np.zeros((2, height, width), np.uint8)
    truth[:, : width // 2] = 1
    prediction[: height // 2] = 1
    return image, truth, prediction


def nearest(pixel):
    """The colour of the legend that a pixel is closest to."""
    colours = {"blue": SKY_BLUE, "vermilion": VERMILION, "yellow": YELLOW, "grey": (66, 66, 66)}
    return min(colours, key=lambda name: np.abs(np.array(colours[name]) - pixel).sum())


def test_panel_enlarges_small_images_by_a_whole_factor():
    # Four tiles of 256 with three gaps of 10 between margins of 16; 40 + 26 above and 36 below the tiles.
    for side in (128, 256):
        picture = panel(*example(side, side), "title")
        assert picture.shape == (40 + 26 + 256 + 36, 4 * 256 + 3 * 10 + 2 * 16, 3)
        assert picture.dtype == np.uint8


def test_panel_shrinks_large_images_to_512_pixels():
    assert panel(*example(1024, 2048), "title").shape == (40 + 26 + 256 + 36, 4 * 512 + 3 * 10 + 2 * 16, 3)


def test_tiles_are_those_of_the_panel():
    found = tiles(*example(256, 256))
    assert list(found) == ["image", "truth", "prediction", "difference"]
    picture = panel(*example(256, 256), "title")
    for column, tile in enumerate(found.values()):
        left = 16 + column * (256 + 10)
        assert np.array_equal(picture[66 : 66 + 256, left : left + 256], tile)


def test_difference_shows_each_kind_of_pixel_in_its_colour():
    picture = panel(*example(256, 256), "title")
    left, top = 16 + 3 * 266, 66
    quarters = {
        name: nearest(picture[top + row, left + column].astype(int))
        for name, row, column in (("both", 64, 64), ("found", 64, 192), ("missed", 192, 64), ("neither", 192, 192))
    }
    assert quarters == {"both": "blue", "found": "vermilion", "missed": "yellow", "neither": "grey"}


def test_ignored_pixels_are_hatched_and_neither_right_nor_wrong():
    image, truth, prediction = example(256, 256)
    truth[:] = 255
    picture = panel(image, truth, prediction, "title")
    difference = picture[66 : 66 + 256, 16 + 3 * 266 : 16 + 3 * 266 + 256]
    assert (difference[..., 0] == difference[..., 2]).all(), "grey only"
    assert len(np.unique(difference)) == 2, "two tones of stripes"
    legend = picture[-36:].reshape(-1, 3)
    assert (legend == GREY).all(axis=1).any()
    assert not (panel(*example(256, 256), "title")[-36:].reshape(-1, 3) == GREY).all(axis=1).any()


def test_a_long_title_is_cut_with_an_ellipsis_inside_the_margin():
    short, long = panel(*example(64, 64), "scan"), panel(*example(64, 64), "scan " * 100)
    assert long.shape == short.shape
    assert (long[:40, -14:] == 255).all()


def test_a_file_name_with_signs_that_no_font_has_is_no_error():
    assert panel(*example(64, 64), "scan \u4e2d\U0001f9e0\x00.png").shape[2] == 3


def test_overlay_colours_the_foreground_only():
    image, mask, _ = example(64, 64)
    picture = overlay(image, mask)
    assert picture.shape == image.shape
    assert (picture[:, 40:] == 120).all()
    # 55 % of 120 and 45 % of the colour (86, 180, 233), rounded: 104.7, 147, 170.85.
    assert picture[32, 16].tolist() == [105, 147, 171]
    assert (image == 120).all(), "the caller's image is left alone"


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 70), st.integers(1, 70))
def test_any_masks_of_any_size_make_a_picture(data, height, width):
    masks = hnp.arrays(np.uint8, (height, width), elements=st.sampled_from([0, 1, 255]))
    truth, prediction = data.draw(masks), data.draw(masks)
    image = np.zeros((height, width, 3), np.uint8)
    assert overlay(image, truth).shape == image.shape
    encoded, _ = cv2.imencode(".png", panel(image, truth, prediction, "title"))
    assert encoded


@pytest.mark.parametrize("shape", [(64, 32), (64, 64, 1)])
def test_refuses_masks_of_another_size(shape):
    image, truth, _ = example(64, 64)
    with pytest.raises(UserError, match=r"got \(64, 64, 3\) and"):
        panel(image, truth, np.zeros(shape, np.uint8), "title")
    with pytest.raises(UserError, match="resize the masks to the image"):
        overlay(image, np.zeros(shape, np.uint8))


class TestSeveralClasses:
    def example(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns: both 1, both 2, truth 1 and prediction 2, prediction 2 alone."""
        image = np.full((256, 256, 3), 120, np.uint8)
        truth, prediction = np.zeros((256, 256), np.uint8), np.zeros((256, 256), np.uint8)
        truth[:, :64], truth[:, 64:128], truth[:, 128:192] = 1, 2, 1
        prediction[:, :64], prediction[:, 64:] = 1, 2
        return image, truth, prediction

    def test_each_has_its_colour(self):
        shown = tiles(*self.example())["truth"]
        # 55 % of 120 and 45 % of the colour.
        assert shown[128, 32].tolist() == [105, 147, 171]
        assert shown[128, 96].tolist() == [170, 138, 66]  # of (230, 159, 0): 169.5, 137.55, 66

    def test_another_class_is_neither_true_nor_false(self):
        difference = tiles(*self.example())["difference"].astype(int)
        found = [difference[128, column] for column in (32, 96, 160, 224)]
        # 20 % of the dimmed 66 and 80 % of the colour.
        expected = [(0.2 * 66 + 0.8 * np.array(colour)).round() for colour in (SKY_BLUE, SKY_BLUE, PURPLE, VERMILION)]
        np.testing.assert_array_equal(found, expected)

    def test_a_second_line_names_them(self):
        one, two = panel(*self.example(), "title"), panel(*self.example(), "title", ("edema", "core"))
        assert two.shape[0] == one.shape[0] + 36
        many = panel(*self.example(), "title", tuple(f"class number {number}" for number in range(200)))
        assert many.shape == two.shape

    def test_a_mask_alone(self):
        assert coloured(np.array([[0, 1, 2, 8, 255]], np.uint8)).tolist() == [
            [[0, 0, 0], list(SKY_BLUE), [230, 159, 0], list(SKY_BLUE), [150, 150, 150]]
        ]
