import base64
import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import keras
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as pycoco

import seg
from seg.data.appearance import Appearance
from seg.data.demo import _exif_orientation
from seg.errors import UserError
from seg.inference import Prediction, Predictor

SIZE = 16


@pytest.fixture(scope="module")
def model():
    """Logit = (red - 127.5) / 8: bright pixels are foreground."""
    image = keras.Input((SIZE, SIZE, 3))
    logits = keras.layers.Conv2D(1, 1, name="logits")(image)
    model = keras.Model(image, logits)
    model.get_layer("logits").set_weights([np.reshape([1 / 8, 0, 0], (1, 1, 3, 1)), np.array([-127.5 / 8])])
    return model


@pytest.fixture
def folder(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return tmp_path


def half_bright(height, width):
    """Its left half is white and its right half black."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = 255
    return image


def test_a_mask_at_the_own_size(folder):
    predictor = Predictor.load(folder)
    prediction = predictor.predict(half_bright(48, 64))
    assert predictor.image_size == SIZE
    assert prediction.mask.shape == (48, 64)
    assert (prediction.mask.dtype, prediction.probability.dtype) == (np.uint8, np.float32)
    assert np.unique(prediction.mask).tolist() == [0, 1]
    assert prediction.mask[:, :30].all()
    assert not prediction.mask[:, 34:].any()


def test_the_probability_is_the_sigmoid_of_the_logit(model):
    # Red 135.5 - 127.5 = 8 is one unit of logit: 1 / (1 + e^-1) = 0.7311. Whole numbers: 136 gives 8.5 / 8 = 1.0625.
    prediction = Predictor(model).predict(np.full((SIZE, SIZE, 3), 136, np.uint8))
    assert prediction.probability == pytest.approx(0.7432, abs=1e-4)  # 1 / (1 + 0.34559)


def test_every_kind_of_image_gives_the_same_mask(model, tmp_path):
    predictor, image = Predictor(model), half_bright(20, 30)
    encoded = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    path = tmp_path / "image.png"
    path.write_bytes(encoded)
    text = base64.b64encode(encoded).decode()
    kinds = [image, image[..., 0], image / 255, image > 0, image.astype(np.uint16) * 257, encoded, path, str(path)]
    kinds += [text, f"data:image/png;base64,{text}", PIL.Image.fromarray(image)]
    for found in predictor.predict_many(kinds):
        np.testing.assert_allclose(found.probability, predictor.predict(image).probability, atol=1e-6)
    np.testing.assert_array_equal(predictor.predict(encoded).probability, predictor.predict(image).probability)


def test_a_model_that_takes_a_list_of_one_input_predicts_without_a_warning(tmp_path):
    image = keras.Input((SIZE, SIZE, 3))
    keras.Model([image], keras.layers.Conv2D(1, 1)(image)).save(tmp_path / "model.keras")
    assert Predictor.load(tmp_path).predict(half_bright(20, 30)).mask.shape == (20, 30)


def test_batches_change_nothing(model):
    images = [half_bright(height, 40) for height in (10, 20, 30, 40, 50)]
    together = list(Predictor(model, batch_size=2).predict_many(images))
    assert [prediction.mask.shape[0] for prediction in together] == [10, 20, 30, 40, 50]
    for image, prediction in zip(images, together, strict=True):
        np.testing.assert_allclose(prediction.probability, Predictor(model).predict(image).probability, atol=1e-6)
    assert list(Predictor(model).predict_many([])) == []


def test_one_array_of_many_images(model):
    images = np.stack([half_bright(20, 30), half_bright(20, 30)[:, ::-1]])
    left, right = Predictor(model).predict_many(images)
    np.testing.assert_array_equal(left.mask, right.mask[:, ::-1])
    assert left.mask[:, :10].all()


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_broken_image_costs_no_other(model, tmp_path, batch_size):
    images = [half_bright(10, 20), b"no image", half_bright(30, 20), tmp_path / "nowhere.png", None, half_bright(5, 5)]
    found = list(Predictor(model, batch_size=batch_size).predict_many(images))
    assert [type(one) for one in found] == [Prediction, UserError, Prediction, UserError, UserError, Prediction]
    assert [one.mask.shape for one in found if isinstance(one, Prediction)] == [(10, 20), (30, 20), (5, 5)]
    assert "must be a JPEG, PNG, BMP or TIFF file" in str(found[1])
    with pytest.raises(UserError, match="must be a JPEG, PNG, BMP or TIFF file"):
        Predictor(model).predict(b"no image")


def test_a_batch_of_broken_images_never_reaches_the_model(model, monkeypatch):
    predictor = Predictor(model, batch_size=2)
    monkeypatch.setattr(predictor, "_logits", None)  # calling it would be a TypeError
    assert [type(one) for one in predictor.predict_many([b"no", b"image", b"here"])] == [UserError] * 3


def test_several_threads_share_a_predictor(model):
    predictor = Predictor(model)
    images = [half_bright(height, 40) for height in range(10, 50)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(predictor.predict, images))
    for image, found in zip(images, together, strict=True):
        np.testing.assert_array_equal(found.probability, predictor.predict(image).probability)


def test_one_batch_is_read_at_a_time(model):
    read = []

    def images():
        for number in range(5):
            read.append(number)
            yield half_bright(8, 8)

    found = Predictor(model, batch_size=2).predict_many(images())
    assert read == []
    next(found)
    next(found)
    assert read == [0, 1]
    next(found)
    assert read == [0, 1, 2, 3]
    assert len(list(found)) == 2


@pytest.mark.parametrize("images", ["image.png", b"image", half_bright(4, 4), np.zeros((4, 4), np.uint8)])
def test_one_image_is_no_list_of_images(model, images):
    with pytest.raises(UserError, match=r"predict_many takes a list of images, .* give one image to predict"):
        Predictor(model).predict_many(images)


def test_a_batch_size_below_one(model):
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0; use 8"):
        Predictor(model, batch_size=0)


@pytest.fixture(scope="module")
def leftward():
    """Logit of a pixel = value of its right neighbour / 255: what a mirror changes."""
    image = keras.Input((SIZE, SIZE, 3))
    layer = keras.layers.Conv2D(1, 3, padding="same", use_bias=False)
    model = keras.Model(image, layer(image))
    kernel = np.zeros((3, 3, 3, 1))
    kernel[1, 2, 0, 0] = 1 / 255
    layer.set_weights([kernel])
    return Predictor(model)


class TestFlips:
    def test_the_mean_of_four_mirror_images(self, leftward):
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        image[4, 4] = 255
        plain, flipped = (leftward.predict(image, tta=tta).probability for tta in ("none", "flips"))
        # sigmoid(0) = 0.5 and sigmoid(1) = 0.73106. Mirrored left to right, the other neighbour answers: twice of four.
        assert (plain[4, 3], plain[4, 5]) == pytest.approx((0.73106, 0.5), abs=1e-5)
        assert (flipped[4, 3], flipped[4, 5]) == pytest.approx((0.61553, 0.61553), abs=1e-5)
        flipped[4, 3] = flipped[4, 5] = 0.5
        assert flipped == pytest.approx(np.full((SIZE, SIZE), 0.5))

    def test_a_mirrored_image_gives_a_mirrored_probability(self, leftward):
        image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        expected = leftward.predict(image, tta="flips").probability
        for axes in ((0,), (1,), (0, 1)):
            found = leftward.predict(np.flip(image, axes), tta="flips").probability
            np.testing.assert_allclose(np.flip(found, axes), expected, atol=1e-6)

    def test_square_answers_alike_for_every_turn(self, leftward):
        image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        expected = leftward.predict(image, tta="square").probability
        for turns in (1, 2, 3):
            found = leftward.predict(np.rot90(image, turns), tta="square").probability
            np.testing.assert_allclose(np.rot90(found, -turns), expected, atol=1e-6)
        assert not np.allclose(leftward.predict(image, tta="flips").probability, expected, atol=1e-3)

    def test_the_models_own_is_the_default(self, leftward, folder):
        (folder / "settings.json").write_text('{"threshold": 0.5, "tta": "flips"}')
        assert Predictor.load(folder).tta == "flips"
        image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        leftward.tta = "flips"
        own = leftward.predict(image).probability
        np.testing.assert_array_equal(own, leftward.predict(image, tta="flips").probability)
        assert np.any(own != leftward.predict(image, tta="none").probability)

    def test_settings_with_an_unknown_kind(self, folder):
        (folder / "settings.json").write_text('{"threshold": 0.5, "tta": "turns"}')
        with pytest.raises(UserError, match="tta must be one of none, flips, square, got 'turns'"):
            Predictor.load(folder)

    def test_another_name(self, model):
        with pytest.raises(UserError, match="tta must be one of none, flips, square, got 'turns'"):
            Predictor(model).predict_many([], tta="turns")


class TestPrediction:
    def test_area_box_and_confidence(self, model):
        # 8 bright rows of 16, at the training size: nothing is resized.
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        image[2:10, 5:8] = 136
        found = Predictor(model).predict(image)
        assert (found.area, found.bbox, found.threshold) == (24, (5, 2, 3, 8), 0.5)
        assert found.confidence == pytest.approx(0.7432, abs=1e-4)  # as above: each pixel's probability

    def test_confidence_of_an_empty_mask(self, model):
        found = Predictor(model).predict(np.full((SIZE, SIZE, 3), 136, np.uint8), threshold=0.8)
        assert (found.area, found.bbox) == (0, None)
        assert found.confidence == pytest.approx(0.2568, abs=1e-4)  # 1 - 0.7432

    def test_segmentations_give_the_mask_back(self, model):
        found = Predictor(model).predict(half_bright(48, 64))
        rle = json.loads(json.dumps(found.segmentation()))
        assert rle["size"] == [48, 64]
        np.testing.assert_array_equal(pycoco.decode(rle), found.mask)
        polygons = json.loads(json.dumps(found.segmentation("polygon")))
        merged = pycoco.merge(pycoco.frPyObjects(polygons, 48, 64))
        np.testing.assert_array_equal(pycoco.decode(merged), found.mask)

    def test_segmentations_of_an_empty_mask(self, model):
        found = Predictor(model).predict(np.zeros((6, 7, 3), np.uint8))
        assert not pycoco.decode(found.segmentation("rle")).any()
        assert found.segmentation("polygon") == []

    def test_another_segmentation(self, model):
        with pytest.raises(UserError, match="segmentation must be one of rle, polygon, got 'box'"):
            Predictor(model).predict(half_bright(4, 4)).segmentation("box")


class TestUnlike:
    KNOWN = Appearance(
        height=(40.0, 60.0),
        width=(40.0, 60.0),
        aspect=(1.0, 1.0),
        brightness=(100.0, 150.0),
        contrast=(100.0, 130.0),
        colour=0.0,
    )

    def test_an_image_like_the_training_images(self, model):
        # Half white and half black: brightness and contrast 127.5.
        assert Predictor(model, training_images=self.KNOWN).predict(half_bright(50, 50)).unlike == ()

    def test_what_is_unlike(self, model):
        blank, small = np.zeros((50, 50), np.uint8), half_bright(10, 10)
        coloured = half_bright(50, 50)
        coloured[..., 2] //= 2
        found = Predictor(model, training_images=self.KNOWN).predict_many([blank, small, coloured])
        assert [" ".join(reason.split()[:1]) for one in found for reason in one.unlike] == [
            *("brightness", "contrast"),
            *("height", "width"),
            "in",
        ]

    def test_a_model_that_does_not_know_its_training_images(self, model):
        assert Predictor(model).predict(np.zeros((50, 50), np.uint8)).unlike == ()

    def test_settings_hold_them(self, folder):
        (folder / "settings.json").write_text(
            json.dumps({"threshold": 0.4, "training_images": self.KNOWN.to_json()}), encoding="utf-8"
        )
        predictor = seg.load(folder)
        assert (predictor.threshold, predictor.training_images) == (0.4, self.KNOWN)

    def test_settings_of_older_models_hold_none(self, folder):
        (folder / "settings.json").write_text('{"threshold": 0.4}')
        assert seg.load(folder).training_images is None


def test_load_takes_a_folder_a_file_and_a_downloaded_model(model, folder, tmp_path):
    downloaded = tmp_path / "downloaded"
    (downloaded / "artifacts" / "model").mkdir(parents=True)
    model.save(downloaded / "artifacts" / "model" / "model.keras")
    image = half_bright(20, 30)
    expected = Predictor(model).predict(image).probability
    for path in (folder, str(folder), folder / "model.keras", downloaded):
        predictor = seg.load(path, batch_size=3)
        assert predictor.batch_size == 3
        np.testing.assert_array_equal(predictor.predict(image).probability, expected)


def test_the_threshold_is_the_files_unless_the_call_says_otherwise(folder):
    (folder / "settings.json").write_text(json.dumps({"threshold": 0.75}))
    image = np.full((SIZE, SIZE, 3), 136, np.uint8)  # probability 0.743, see above
    for path in (folder, folder / "model.keras", str(folder)):
        predictor = Predictor.load(path)
        assert predictor.threshold == 0.75
        assert not predictor.predict(image).mask.any()
        assert predictor.predict(image, threshold=0.7).mask.all()
        assert predictor.predict(image, threshold=0).mask.all()
        assert not predictor.predict(image, threshold=1).mask.any()


def test_without_settings_the_threshold_is_one_half(folder):
    assert Predictor.load(folder).threshold == 0.5


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 99))
def test_every_size_comes_back_as_it_went_in(model, height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    prediction = Predictor(model).predict(image)
    assert prediction.mask.shape == prediction.probability.shape == (height, width)
    assert set(np.unique(prediction.mask)) <= {0, 1}
    assert ((prediction.probability >= 0) & (prediction.probability <= 1)).all()


def test_no_model(tmp_path):
    with pytest.raises(UserError, match=r"a .keras file or a folder with model.keras, got .*; train one first"):
        Predictor.load(tmp_path)


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "model.keras").write_text("no")
    with pytest.raises(UserError, match="must be a Keras model that loads in safe mode"):
        Predictor.load(tmp_path)


def test_a_file_that_carries_code_is_refused(tmp_path):
    keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Lambda(lambda x: x[..., :1])]).save(
        tmp_path / "model.keras"
    )
    with pytest.raises(UserError, match="loads in safe mode"):
        Predictor.load(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"threshold": null}', '{"threshold": "high"}', '{"threshold": 1, "training_images": []}']
)
def test_settings_that_cannot_be_read(folder, text):
    (folder / "settings.json").write_text(text)
    with pytest.raises(UserError, match=r"settings.json must hold .*write it again"):
        Predictor.load(folder)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_out_of_range(model, folder, threshold):
    with pytest.raises(UserError, match="threshold must lie between 0 and 1"):
        Predictor(model, threshold)
    with pytest.raises(UserError, match="threshold must lie between 0 and 1"):
        Predictor(model).predict(half_bright(4, 4), threshold)
    (folder / "settings.json").write_text(json.dumps({"threshold": threshold}))
    with pytest.raises(UserError, match="threshold must lie between 0 and 1"):
        Predictor.load(folder)


class TestExif:
    """A file that EXIF turns a quarter clockwise: its left half, bright, becomes its upper half."""

    @staticmethod
    def turned(height, width):
        data = cv2.imencode(".jpg", half_bright(height, width))[1].tobytes()
        return data[:2] + _exif_orientation(6) + data[2:]

    @pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (64, 64), (200, 300)])
    def test_a_model_turns_images_as_its_training_images_were(self, folder, height, width):
        (folder / "settings.json").write_text('{"threshold": 0.5, "exif": "rotate"}')
        prediction = Predictor.load(folder).predict(self.turned(height, width))
        assert prediction.mask.shape == (width, height)
        assert prediction.mask[: width // 2 - 4].all()
        assert not prediction.mask[width // 2 + 4 :].any()

    def test_other_models_take_the_stored_pixels(self, folder):
        prediction = Predictor.load(folder).predict(self.turned(48, 64))
        assert prediction.mask.shape == (48, 64)
        assert prediction.mask[:, :28].all()

    def test_an_unknown_policy(self, model):
        with pytest.raises(UserError, match="exif must be one of ignore, rotate, got 'turn'"):
            Predictor(model, exif="turn")
