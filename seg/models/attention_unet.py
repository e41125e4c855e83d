"""Attention U-Net: a U-Net whose decoder looks at the encoder's features through gates.

Oktay et al., Attention U-Net: Learning Where to Look for the Pancreas (2018), https://arxiv.org/abs/1804.03999. Its
gates are additive. Every skip has one here, that of the image's own size too, which the paper leaves without.
"""

import keras
from keras import layers

from seg.config import TrainConfig
from seg.models.blocks import Blocks, finish_model


def build_attention_unet(config: TrainConfig, channels: int) -> keras.Model:
    """Builds a U-Net with a gate on each skip; level `k` has `filters * 2**k` channels.

    Args:
        config: `image_size`, `filters`, `depth`, `deep_supervision`, and what `Blocks` reads.
        channels: logits per pixel.

    Returns:
        a model as `seg.models.build_training_model` describes it; deep supervision adds the decoder's other levels.
    """
    blocks = Blocks(config)
    image = keras.Input((config.image_size, config.image_size, 3), name="image")
    *skipped, x = blocks.encoder(image, config.filters, config.depth)
    decoded = []
    for level in reversed(range(config.depth)):
        width, name = config.filters * 2**level, f"decoder_{level}"
        gated = _gate(skipped[level], x, width, blocks, name)
        x = blocks.up(x, width, name)
        x = blocks.block(blocks.join([gated, x], name), width, name)
        decoded.append(x)
    auxiliary = decoded[:-1] if config.deep_supervision == "yes" else []
    return finish_model(image, x, "attention_unet", channels, auxiliary)


def _gate(
    features: keras.KerasTensor, signal: keras.KerasTensor, channels: int, blocks: Blocks, name: str
) -> keras.KerasTensor:
    """features · σ(ψ(ReLU(θ(features) + φ(signal)))): θ and the signal are half as large, the weights are resized."""
    policy = blocks.policy
    theta = layers.Conv2D(channels, 2, strides=2, use_bias=False, dtype=policy, name=f"{name}_gate_theta")(features)
    phi = layers.Conv2D(channels, 1, dtype=policy, name=f"{name}_gate_phi")(signal)
    both = layers.Add(dtype=policy, name=f"{name}_gate_add")([theta, phi])
    both = layers.ReLU(dtype=policy, name=f"{name}_gate_relu")(both)
    weights = layers.Conv2D(1, 1, activation="sigmoid", dtype=policy, name=f"{name}_gate_psi")(both)
    weights = blocks.resize(weights, 2, f"{name}_gate_resize")
    return layers.Multiply(dtype=policy, name=f"{name}_gate")([features, weights])
