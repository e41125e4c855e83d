"""Every model keeps the same contract; a new one adds its TrainConfig to CONFIGS."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from seg.config import TrainConfig
from seg.losses import bce
from seg.models import build_model
from seg.models.unet import build_unet

CONFIGS = {
    "unet": TrainConfig(image_size=16, filters=2, depth=2),
    "unet_odd_size": TrainConfig(image_size=20, filters=3, depth=1),
    "unet_bfloat16": TrainConfig(image_size=16, filters=2, depth=2, precision="mixed_bfloat16"),
    "unet_float16": TrainConfig(image_size=16, filters=2, depth=2, precision="mixed_float16"),
}


def images_for(config: TrainConfig, number: int = 3) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (number, config.image_size, config.image_size, 3)).astype(np.float32)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
class TestEveryModel:
    def test_one_float32_logit_per_pixel(self, config: TrainConfig) -> None:
        model = build_model(config)
        logits = model(images_for(config))
        assert logits.shape == (3, config.image_size, config.image_size, 1)
        assert logits.dtype == tf.float32
        assert model.input_shape == (None, config.image_size, config.image_size, 3)

    def test_an_image_does_not_depend_on_its_batch(self, config: TrainConfig) -> None:
        model, images = build_model(config), images_for(config)
        # bfloat16 keeps 8 bits, and a sum may run in another order for another batch.
        tolerance = 1e-5 if config.precision == "float32" else 0.05
        np.testing.assert_allclose(model(images, training=False)[:1], model(images[:1], training=False), atol=tolerance)

    def test_every_weight_is_trained(self, config: TrainConfig) -> None:
        model = build_model(config)
        masks = np.zeros((3, config.image_size, config.image_size, 1), np.float32)
        masks[:, 2:6, 2:6] = 1
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(bce(masks, model(images_for(config), training=True)))
        for weight, gradient in zip(
            model.trainable_variables, tape.gradient(loss, [w.value for w in model.trainable_variables]), strict=True
        ):
            assert gradient is not None, weight.path
            assert np.any(np.asarray(gradient) != 0), weight.path

    def test_loads_in_safe_mode_and_says_the_same(self, config: TrainConfig, tmp_path: Path) -> None:
        model, images = build_model(config), images_for(config)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
        np.testing.assert_array_equal(loaded(images, training=False), model(images, training=False))
        assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)


def test_the_number_of_weights_by_hand() -> None:
    # filters 2, depth 1, with c' output and c input channels:
    #   3×3 convolution without bias 9·c·c'; normalisation 4·c'; 2×2 transposed convolution 4·c·c' + c'.
    # encoder_0: 9·3·2 + 4·2 + 9·2·2 + 4·2      =  54 + 8 + 36 + 8    = 106
    # bottom:    9·2·4 + 4·4 + 9·4·4 + 4·4      =  72 + 16 + 144 + 16 = 248
    # decoder_0: up 4·4·2 + 2 = 34; then 9·(2+2)·2 + 4·2 + 9·2·2 + 4·2 = 72 + 8 + 36 + 8 = 124
    # logits:    2 + 1                                                = 3
    assert build_unet(image_size=8, filters=2, depth=1).count_params() == 106 + 248 + 34 + 124 + 3


def test_the_seed_setting_has_the_classic_size() -> None:
    # The same sums for levels of 64, 128, 256, 512 and 1024 channels: 31 million weights, as the paper's network.
    encoder = 39_104 + 222_208 + 886_784 + 3_543_040
    bottom = 14_163_968
    up = 2_097_664 + 524_544 + 131_200 + 32_832
    decoder = 7_081_984 + 1_771_520 + 443_392 + 111_104
    assert build_unet(image_size=32, filters=64, depth=4).count_params() == encoder + bottom + up + decoder + 65


def test_images_are_scaled_inside_the_model() -> None:
    model = build_unet(image_size=8, filters=2, depth=1)
    scaled = model.get_layer("rescaling")(np.full((1, 8, 8, 3), 255.0))
    np.testing.assert_allclose(scaled, 1.0, rtol=1e-6)


def test_one_replica_needs_no_synchronised_normalisation() -> None:
    model = build_unet(image_size=8, filters=2, depth=1)
    assert not model.get_layer("bottom_normalization_1").synchronized
