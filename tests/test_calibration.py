import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.training.calibration import BINS, Calibration


def test_bins_and_error_by_hand() -> None:
    calibration = Calibration()
    # Bin 0.2: two pixels of 0.25, one is foreground. Bin 0.9: 0.95 is foreground, 1.0 is not; 0.9 is ignored.
    calibration.add(np.array([[1, 0, 255]]), np.array([[0.25, 0.25, 0.9]]))
    calibration.add(np.array([[1, 0, 255]]), np.array([[0.95, 1.0, 0.3]]))
    found = calibration.result()
    assert [part.pixels for part in found.bins] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2]
    low, high = found.bins[2], found.bins[9]
    assert (low.low, low.high, low.probability, low.foreground) == (0.2, 0.3, 0.25, 0.5)
    assert (high.low, high.high, high.foreground) == (0.9, 1.0, 0.5)
    assert high.probability == pytest.approx(0.975)
    assert (found.bins[0].probability, found.bins[0].foreground) == (None, None)
    # (2 · |0.25 - 0.5| + 2 · |0.975 - 0.5|) / 4
    assert found.expected_error == pytest.approx(0.3625)


def test_a_model_that_knows_how_sure_it_is() -> None:
    calibration = Calibration()
    mask = np.zeros((10, 10), np.uint8)
    mask.flat[:30] = 1
    calibration.add(mask, np.full((10, 10), 0.3))
    assert calibration.result().expected_error == pytest.approx(0, abs=1e-12)


def test_nothing_scored() -> None:
    calibration = Calibration()
    calibration.add(np.full((2, 2), 255), np.full((2, 2), 0.5))
    assert calibration.result().expected_error == 0


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from([0, 1, 255])), min_size=1, max_size=40))
def test_every_scored_pixel_is_in_one_bin_and_images_add_up(pixels: list[tuple[float, int]]) -> None:
    probability = np.array([[value for value, _ in pixels]], np.float32)
    mask = np.array([[truth for _, truth in pixels]], np.uint8)
    whole, piecewise = Calibration(), Calibration()
    whole.add(mask, probability)
    for place in range(len(pixels)):
        piecewise.add(mask[:, place : place + 1], probability[:, place : place + 1])
    found = whole.result()
    assert sum(part.pixels for part in found.bins) == (mask != 255).sum()
    assert len(found.bins) == BINS
    assert 0 <= found.expected_error <= 1
    assert piecewise.result().expected_error == pytest.approx(found.expected_error)
    for part in found.bins:
        if part.probability is not None:
            assert part.low - 1e-6 <= part.probability <= part.high + 1e-6
