"""The graph that TensorFlow computes; `openvino_alone.py` has what OpenVINO makes of it."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from seg import serving_graph as serving
from seg.inference import Predictor
from seg.models import build_model
from seg.serving_graph import _Doubling, _Nothing, _put_differently, serving_graph
from tests.model_configs import CONFIGS


@pytest.fixture(autouse=True)
def without_openvino(monkeypatch):
    monkeypatch.setattr(serving, "compiled_by_openvino", lambda graph: None)


def trained(config, classes=1):
    """A model, by its name or its settings, with weights far from those that it begins with.

    Of normalisation these are 0 and 1, of biases 0.
    """
    keras.utils.set_random_seed(0)
    model = build_model(CONFIGS[config] if isinstance(config, str) else config, classes)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
        elif getattr(layer, "use_bias", False):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, random.uniform(-0.5, 0.5, bias.shape)])
    return model


@pytest.mark.parametrize(("name", "classes"), [*((name, 1) for name in CONFIGS), ("unet", 3), ("attention_unet", 3)])
def test_what_is_served_is_what_the_model_says(name, classes):
    model = trained(name, classes)
    before = model.get_weights()
    size = CONFIGS[name].image_size
    images = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), np.uint8)
    logits = np.asarray(model(images.astype(np.float32), training=False))
    assert logits.std() > 0.002  # far more than what is tolerated
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    expected = 1 / (1 + np.exp(-logits[..., 0])) if classes == 1 else powers / powers.sum(axis=-1, keepdims=True)
    predictor = Predictor(model)
    # In bfloat16 folded weights are rounded otherwise, in float16 only the order of additions may differ.
    tolerance = 1e-4 if CONFIGS[name].precision == "float32" else 1e-2
    for many in (3, 1):
        found = list(predictor.predict_many(images[:many]))
        values = [one.probability if classes == 1 else one.class_probabilities for one in found]
        np.testing.assert_allclose(np.stack(values), expected[:many], atol=tolerance)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_of_a_unet_every_transposed_convolution_is_put_differently():
    model = trained("unet")
    copy = _put_differently(model, folded=False)
    assert [type(layer) for layer in copy.layers].count(_Doubling) == 2  # of depth 2
    assert not [layer for layer in copy.layers if type(layer) is keras.layers.Conv2DTranspose]
    assert len([layer for layer in model.layers if type(layer) is keras.layers.Conv2DTranspose]) == 2
    resized = trained("unet_resize")
    assert _put_differently(resized, folded=False) is resized


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "strides": 2, "padding": "same"},
        {"kernel_size": 2, "strides": 1, "padding": "same"},
        {"kernel_size": 2, "strides": 2, "activation": "softmax"},
        {"kernel_size": 2, "strides": 2, "output_padding": 1},
    ],
)
def test_other_transposed_convolutions_stay(options):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Conv2DTranspose(2, **options)(image))
    assert _put_differently(model, folded=False) is model


@pytest.mark.parametrize("options", [{}, {"padding": "same"}, {"use_bias": False}])
def test_a_pixel_becomes_four_by_hand(options):
    """Pixel p gives p · kernel[row, column] at each of its four places, plus the bias."""
    image = keras.Input((2, 2, 3))
    layer = keras.layers.Conv2DTranspose(1, 2, strides=2, **options)
    model = keras.Model(image, layer(image))
    kernel = np.zeros((2, 2, 1, 3))
    kernel[:, :, 0, 0] = [[1, 2], [3, 4]]
    layer.set_weights([kernel, np.array([0.5])] if layer.use_bias else [kernel])
    picture = np.zeros((1, 2, 2, 3), np.uint8)
    picture[0, :, :, 0] = [[1, 10], [20, 30]]
    expected = np.array([[1, 2, 10, 20], [3, 4, 30, 40], [20, 40, 30, 60], [60, 80, 90, 120]])
    found = np.asarray(serving_graph(model)(picture))[0, ..., 0]
    np.testing.assert_allclose(found, expected + (0.5 if layer.use_bias else 0), rtol=1e-6)


def in_bfloat16(name):
    """The model of float32 with numbers of a training, and the same one as it would compute in bfloat16."""
    exact = trained(name)
    reduced = build_model(replace(CONFIGS[name], precision="mixed_bfloat16"))
    reduced.set_weights(exact.get_weights())
    return exact, reduced


@pytest.mark.parametrize("name", [name for name in CONFIGS if CONFIGS[name].precision == "float32"])
def test_in_bfloat16_folding_is_as_near_to_float32_as_the_model_is(name):
    exact, reduced = in_bfloat16(name)
    images = np.random.default_rng(1).integers(0, 256, (4, *exact.input_shape[1:]), np.uint8)
    given = images.astype(np.float32)
    served = np.asarray(serving_graph(reduced)(images))
    right, unfolded = (np.asarray(model(given, training=False)) for model in (exact, reduced))
    errors = [float(np.sqrt(np.mean((found - right) ** 2))) for found in (served, unfolded)]
    assert 0 < errors[0] < 1.5 * errors[1]


def test_in_bfloat16_every_normalisation_of_a_unet_is_folded():
    _, reduced = in_bfloat16("unet")
    copy = _put_differently(reduced, folded=True)
    kinds = [type(layer) for layer in copy.layers]
    assert keras.layers.BatchNormalization not in kinds
    assert kinds.count(_Nothing) == [type(layer) for layer in reduced.layers].count(keras.layers.BatchNormalization)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", [keras.layers.Conv2D, keras.layers.SeparableConv2D])
def test_a_folded_convolution_gives_what_normalisation_made_of_it(kind, use_bias, scale, center):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = kind(4, 3, use_bias=use_bias, bias_initializer="normal")(image)
    model = keras.Model(image, keras.layers.ReLU()(keras.layers.BatchNormalization(scale=scale, center=center)(x)))
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    copy = _put_differently(model, folded=True)
    images = random.normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(copy(images), model(images, training=False), rtol=1e-4, atol=1e-4)
    assert any(isinstance(layer, _Nothing) for layer in copy.layers)


def test_a_convolution_that_somebody_else_hears_of_stays():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(image)
    both = keras.layers.Add()([x, keras.layers.BatchNormalization()(x)])
    model = keras.Model(image, both)
    assert _put_differently(model, folded=True) is model
    model = keras.Model(image, [x, keras.layers.BatchNormalization()(x)])
    assert _put_differently(model, folded=True) is model
    model = keras.Model(image, keras.layers.BatchNormalization()(x) * (x + 3.0))  # an operation that is no layer
    assert _put_differently(model, folded=True) is model
