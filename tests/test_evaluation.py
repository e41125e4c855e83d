from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from seg.data.manifest import Manifest
from seg.inference import Predictor
from seg.symmetries import TTA
from seg.training.devices import make_strategy
from seg.training.evaluation import evaluate, predict_split, threshold_curve, tune_threshold
from tests.tiny import write_tiny


def brightness_model(steepness: float = 0.1, middle: float = 130.0) -> keras.Model:
    """A model that needs no training: the logit grows with the red value, 0 at `middle`."""
    image = keras.Input((16, 16, 3))
    logits = layers.Conv2D(1, 1)(image)
    model = keras.Model(image, logits)
    model.layers[-1].set_weights([np.array([[[[steepness], [0], [0]]]]), np.array([-steepness * middle])])
    return model


def constant_model(logit: float) -> keras.Model:
    model = brightness_model()
    model.layers[-1].set_weights([np.zeros((1, 1, 3, 1)), np.array([logit])])
    return model


def test_predictions_are_probabilities_in_the_order_of_the_records(tiny: Manifest) -> None:
    predicted = np.stack(list(predict_split(brightness_model(), tiny, "val", 3, make_strategy("auto"))))
    red = tiny.records("val")[..., 0].astype(np.float64)
    np.testing.assert_allclose(predicted, 1 / (1 + np.exp(-0.1 * (red - 130))), atol=1e-5)
    assert predicted.dtype == np.float32
    assert predicted.shape == (7, 16, 16)


def test_a_model_that_is_right_scores_1_everywhere(tiny: Manifest) -> None:
    found = evaluate(brightness_model(), tiny, "test", 0.5, 4, make_strategy("auto"))
    # Squares are at least 170 bright, background at most 59; test holds 5 images, one of them empty.
    assert (found.examples, found.empty) == (5, 1)
    for name in ("dice", "dice_own_size", "dice_pooled", "iou_50", "dice_positive"):
        assert found.scores[name].mean == pytest.approx(1.0, abs=0.02 if name == "dice_own_size" else 1e-9), name
    assert found.scores["false_positive_rate"].mean == 0
    assert [image.file_name for image in found.images] == [f"test/{index}.png" for index in range(5)]
    assert [image.index for image in found.images] == list(range(5))


def test_a_model_that_paints_everything(tiny: Manifest) -> None:
    found = evaluate(constant_model(5.0), tiny, "test", 0.5, 4, make_strategy("auto"))
    masks = tiny.records("test")[..., 3]
    foreground, background = (masks == 1).sum((1, 2)), (masks == 0).sum((1, 2))
    dice = 2 * foreground / (2 * foreground + background)
    assert found.scores["false_positive_rate"].mean == 1
    assert found.scores["dice"].mean == pytest.approx(dice.mean())
    assert found.scores["dice_positive"].mean == pytest.approx(dice[foreground > 0].mean())
    assert found.scores["dice_pooled"].mean == pytest.approx(2 * foreground.sum() / (2 * foreground + background).sum())
    # Each own-size pixel is one of four copies, so the own size has the same Dice; ignored pixels stay out there too.
    assert found.scores["dice_own_size"].mean == pytest.approx(dice.mean())
    for interval in found.scores.values():
        assert interval.low <= interval.mean <= interval.high


def test_scores_without_images_are_left_out(tmp_path: Path) -> None:
    manifest = write_tiny(tmp_path, test=3)  # every fourth image is empty: none here
    scores = evaluate(brightness_model(), manifest, "test", 0.5, 4, make_strategy("auto")).scores
    assert "dice_positive" in scores
    assert "false_positive_rate" not in scores


@pytest.mark.parametrize("tta", TTA)
def test_augmented_predictions_are_the_predictors(tiny: Manifest, tta: str) -> None:
    """A kernel without any symmetry: both ways of computing agree only if they turn and turn back alike."""
    image = keras.Input((16, 16, 3))
    logits = keras.layers.Conv2D(1, 3, padding="same", kernel_initializer=keras.initializers.RandomNormal(0, 0.01, 7))
    model = keras.Model(image, logits(image))
    strategy = make_strategy("auto")
    found = np.stack(list(predict_split(model, tiny, "val", 4, strategy, tta)))
    records = np.array(tiny.records("val")[..., :3])
    expected = [one.probability for one in Predictor(model).predict_many(records, tta=tta)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    plain = np.stack(list(predict_split(model, tiny, "val", 4, strategy)))
    assert np.allclose(found, plain, atol=1e-3) == (tta == "none")
    augmented = evaluate(model, tiny, "val", 0.5, 4, strategy, tta)
    assert (augmented.scores == evaluate(model, tiny, "val", 0.5, 4, strategy).scores) == (tta == "none")


def test_the_threshold_is_tuned(tiny: Manifest) -> None:
    strategy = make_strategy("auto")
    # Any threshold separates 59 from 170 when the logit is 0 at 115: of equals, the one nearest to 0.5.
    assert tune_threshold(brightness_model(0.1, 115), tiny, "val", 4, strategy) == 0.5
    # Logits 0.02·(red - 0): background up to 59 has probability up to 0.765, squares from 170 have 0.967 and more.
    assert 0.75 <= tune_threshold(brightness_model(0.02, 0), tiny, "val", 4, strategy) <= 0.95


def colour_model() -> keras.Model:
    """Logits 0 for background and 0.1·(colour - 115) for each of two classes: right on `write_tiny` of two classes."""
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, layers.Conv2D(3, 1)(image))
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, 0, 1] = kernel[0, 0, 1, 2] = 0.1
    model.layers[-1].set_weights([kernel, np.array([0, -11.5, -11.5])])
    return model


class TestSeveralClasses:
    @pytest.fixture
    def two(self, tmp_path: Path) -> Manifest:
        """Of the five test images the squares are a, b, a, none, a."""
        return write_tiny(tmp_path, classes=2)

    @pytest.mark.parametrize("tta", TTA)
    def test_predictions_are_those_of_the_predictor(self, two: Manifest, tta: str) -> None:
        image = keras.Input((16, 16, 3))
        turned = layers.Conv2D(3, 3, padding="same", kernel_initializer=keras.initializers.RandomNormal(0, 0.01, 7))
        model = keras.Model(image, turned(image))
        found = np.stack(list(predict_split(model, two, "val", 4, make_strategy("auto"), tta)))
        records = np.array(two.records("val")[..., :3])
        expected = [one.class_probabilities for one in Predictor(model).predict_many(records, tta=tta)]
        assert found.shape == (7, 16, 16, 3)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_a_model_that_is_right_scores_1_everywhere(self, two: Manifest) -> None:
        found = evaluate(colour_model(), two, "test", None, 4, make_strategy("auto"))
        assert (found.threshold, found.threshold_curve, found.examples, found.empty) == (None, (), 5, 1)
        for name in ("dice", "dice_pooled", "iou_50", "dice_positive", "dice_a", "dice_b"):
            assert found.scores[name].mean == pytest.approx(1, abs=1e-9), name
        assert found.scores["dice_own_size"].mean == pytest.approx(1, abs=0.03)
        assert found.scores["false_positive_rate"].mean == 0
        there = [tuple(not np.isnan(score) for score in image.class_dice) for image in found.images]
        assert there == [(True, False), (False, True), (True, False), (False, False), (True, False)]

    def test_a_model_that_takes_one_for_the_other(self, two: Manifest) -> None:
        model = colour_model()
        kernel, bias = model.layers[-1].get_weights()
        model.layers[-1].set_weights([kernel[..., [0, 2, 1]], bias])
        found = evaluate(model, two, "test", None, 4, make_strategy("auto"))
        # The four images with a square score 0 in the class that is there and in the one that is not; the empty one 1.
        assert found.scores["dice"].mean == pytest.approx(1 / 5)
        assert found.scores["dice_a"].mean == found.scores["dice_b"].mean == found.scores["dice_pooled"].mean == 0
        foreground = (two.records("test")[..., 3] % 255 > 0).sum((1, 2))
        assert [image.foreground for image in found.images] == foreground.tolist()
        assert [image.false_positive for image in found.images] == foreground.tolist()

    def test_scores_of_classes_that_are_nowhere_are_left_out(self, tmp_path: Path) -> None:
        manifest = write_tiny(tmp_path, test=1, classes=2)
        scores = evaluate(colour_model(), manifest, "test", None, 4, make_strategy("auto")).scores
        assert "dice_a" in scores
        assert "dice_b" not in scores


def test_only_the_largest_component_is_scored(tiny: Manifest, tmp_path: Path) -> None:
    """A bright spot beside each square: kept, it is a false positive; an image without a square keeps it."""
    spotted = write_tiny(tmp_path / "spotted")
    records = np.load(spotted.folder / "test.npy")
    for record in records:
        corner = next(  # one that touches no foreground and is not ignored
            (y, x)
            for y, x in ((15, 15), (15, 0), (0, 15))
            if not (record[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2, 3] == 1).any()
        )
        record[(*corner, slice(3))] = 200
    np.save(spotted.folder / "test.npy", records)
    strategy, model = make_strategy("auto"), brightness_model(0.1, 115)
    plain = evaluate(model, spotted, "test", 0.5, 4, strategy)
    largest = evaluate(model, spotted, "test", 0.5, 4, strategy, largest_component="yes")
    assert [image.false_positive for image in plain.images] == [1] * 5
    assert [image.false_positive for image in largest.images] == [0, 0, 0, 1, 0]
    assert largest.scores["dice_positive"].mean == 1 > plain.scores["dice_positive"].mean
    # The curve that chooses a threshold sees what is scored.
    curve = threshold_curve(model, spotted, "test", 4, strategy, largest_component="yes")
    assert curve[9] == pytest.approx(largest.scores["dice"].mean)
    assert curve == largest.threshold_curve
    assert curve[9] > plain.threshold_curve[9]
