"""What training images look like: measured by hand on small images, and what counts as unlike them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seg.data import appearance
from seg.data.appearance import Appearance, Traits, measure_image, measure_training_images
from seg.data.manifest import Manifest
from tests.tiny import write_tiny

GREY = Appearance(
    height=(480.0, 640.0),
    width=(480.0, 640.0),
    aspect=(0.75, 1.25),
    brightness=(40.0, 100.0),  # a quarter of its length is 15
    contrast=(40.0, 56.0),  # a quarter of its length is 4, below the least margin of 8
    colour=0.0,
)
ALIKE = Traits(height=480, width=480, brightness=60.0, contrast=50.0, colour=False)


class TestMeasureImage:
    def test_brightness_and_contrast(self) -> None:
        picture = np.zeros((2, 2, 3), np.uint8)
        picture[0] = 200  # half of it 200, half of it 0: mean 100, and each pixel lies 100 from it
        traits = measure_image(picture, 20, 30)
        assert traits == Traits(height=20, width=30, brightness=100.0, contrast=100.0, colour=False)

    @pytest.mark.parametrize(
        ("red", "green", "blue", "colour"),
        [
            (100, 100, 100, False),
            (101, 100, 98, False),  # 3 levels apart, as a JPEG's grey may be
            (104, 100, 100, True),
            (100, 100, 200, True),
        ],
    )
    def test_colour(self, red: int, green: int, blue: int, colour: bool) -> None:
        assert measure_image(np.full((4, 4, 3), (red, green, blue), np.uint8), 4, 4).colour is colour

    def test_a_small_coloured_sign_on_a_grey_image_leaves_it_grey(self) -> None:
        picture = np.full((10, 10, 3), 60, np.uint8)
        picture[0, 0] = (255, 0, 0)  # 255 / 100 pixels: 2.55 levels on average
        assert not measure_image(picture, 10, 10).colour


class TestMeasureTrainingImages:
    def test_the_training_split(self, tiny: Manifest) -> None:
        measured = measure_training_images(tiny)
        # 16 × 16 records of images of 32 × 32; 13 images, so that both quantiles are the extremes.
        assert (measured.height, measured.width, measured.aspect) == ((32.0, 32.0), (32.0, 32.0), (1.0, 1.0))
        means = tiny.records("train")[..., :3].mean(axis=(1, 2, 3))
        assert measured.brightness == pytest.approx((means.min(), means.max()), abs=1e-3)
        assert measured.colour == 1.0  # its noise differs from channel to channel
        train, sizes = tiny.records("train"), list(tiny.examples("train"))
        for record, example in zip(train, sizes, strict=True):
            assert measured.differences(measure_image(record[..., :3], example.height, example.width)) == ()

    def test_of_many_images_evenly_spaced_ones(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        manifest = write_tiny(tmp_path, train=9, val=1, test=1)
        seen: list[np.ndarray] = []

        def measure(picture: np.ndarray, height: int, width: int) -> Traits:
            seen.append(picture)
            return ALIKE

        monkeypatch.setattr(appearance, "_MEASURED", 3)
        monkeypatch.setattr(appearance, "measure_image", measure)
        measure_training_images(manifest)
        np.testing.assert_array_equal(seen, manifest.records("train")[[0, 4, 8], ..., :3])

    def test_quantiles_leave_out_the_rarest(self) -> None:
        # 1000 numbers 0 … 999: the 0.5 % quantile lies at position 4.995, the 99.5 % quantile at 994.005.
        assert appearance._quantiles([float(number) for number in range(1000)]) == (4.0, 995.0)


class TestDifferences:
    def test_alike(self) -> None:
        assert GREY.differences(ALIKE) == ()

    @pytest.mark.parametrize(
        ("changes", "alike"),
        [
            ({"height": 240, "width": 240}, True),
            ({"height": 1280, "width": 1280}, True),
            ({"brightness": 25.0}, True),
            ({"brightness": 115.0}, True),
            ({"contrast": 32.0}, True),
            ({"contrast": 64.0}, True),
            ({"height": 480, "width": 240}, True),  # 0.5 is 0.75 / 1.5
            ({"height": 480, "width": 900}, True),  # 1.875 is 1.25 * 1.5
            ({"brightness": 24.9}, False),
            ({"brightness": 115.1}, False),
            ({"contrast": 31.9}, False),
            ({"contrast": 64.1}, False),
        ],
    )
    def test_the_margins(self, changes: dict[str, Any], alike: bool) -> None:
        assert (GREY.differences(replace(ALIKE, **changes)) == ()) is alike

    @pytest.mark.parametrize(
        ("changes", "reasons"),
        [
            (
                {"height": 239, "width": 239},
                (
                    "height 239 pixels: training images have 480 to 640",
                    "width 239 pixels: training images have 480 to 640",
                ),
            ),
            ({"height": 1281, "width": 1280}, ("height 1281 pixels: training images have 480 to 640",)),
            ({"height": 500, "width": 1000}, ("width/height 2.00: training images have 0.75 to 1.25",)),
            ({"brightness": 200.0}, ("brightness 200 of 255: training images have 40 to 100",)),
            ({"contrast": 0.0}, ("contrast 0 of 255: training images have 40 to 56",)),
            ({"colour": True}, ("in colour: training images are grey",)),
        ],
    )
    def test_the_reasons(self, changes: dict[str, Any], reasons: tuple[str, ...]) -> None:
        assert GREY.differences(replace(ALIKE, **changes)) == reasons

    def test_one_number_where_all_training_images_have_it(self) -> None:
        same = replace(GREY, height=(640.0, 640.0))
        assert same.differences(replace(ALIKE, height=64)) == (
            "height 64 pixels: training images have 640",
            "width/height 7.50: training images have 0.75 to 1.25",
        )

    @pytest.mark.parametrize(
        ("share", "grey_alike", "colour_alike"),
        [(0.0, True, False), (0.01, True, False), (0.02, True, True), (0.98, True, True), (0.99, False, True)],
    )
    def test_grey_and_colour(self, share: float, grey_alike: bool, colour_alike: bool) -> None:
        known = replace(GREY, colour=share)
        assert (known.differences(ALIKE) == ()) is grey_alike
        assert (known.differences(replace(ALIKE, colour=True)) == ()) is colour_alike
        if not grey_alike:
            assert known.differences(ALIKE) == ("grey: training images are in colour",)


class TestJson:
    def test_round_trip(self) -> None:
        assert Appearance.from_json(json.loads(json.dumps(GREY.to_json()))) == GREY

    @pytest.mark.parametrize("content", [[], {}, {"height": [1, 2]}, GREY.to_json() | {"depth": [1, 2]}, 3])
    def test_other_names(self, content: Any) -> None:
        with pytest.raises(ValueError, match="the appearance of training images must have aspect, brightness"):
            Appearance.from_json(content)

    @pytest.mark.parametrize("value", [None, 3, [1], [1, 2, 3], ["low", "high"], [2, 1], [float("nan"), 1]])
    def test_no_range(self, value: Any) -> None:
        with pytest.raises(ValueError, match="a range must be two numbers, the lower one first, got"):
            Appearance.from_json(GREY.to_json() | {"height": value})

    @pytest.mark.parametrize("value", [None, "grey", -0.1, 1.1, float("nan")])
    def test_no_share(self, value: Any) -> None:
        with pytest.raises(ValueError, match="colour must be a share in 0 to 1, got"):
            Appearance.from_json(GREY.to_json() | {"colour": value})
