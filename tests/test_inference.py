import json

import cv2
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg.errors import UserError
from seg.inference import Predictor

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


def test_bytes_and_arrays_agree(model):
    predictor, image = Predictor(model), half_bright(20, 30)
    encoded = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(predictor.predict(encoded).probability, predictor.predict(image).probability)
    np.testing.assert_array_equal(predictor.predict(image[..., 0]).mask, predictor.predict(image).mask)


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


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"threshold": null}', '{"threshold": "high"}'])
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
