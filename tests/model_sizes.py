"""The numbers of weights of CONFIGS, worked out by hand from the papers' pictures, layer by layer."""


def conv(size: int, inputs: int, outputs: int) -> int:
    """Weights of a convolution without bias."""
    return size * size * inputs * outputs


def biased(size: int, inputs: int, outputs: int) -> int:
    """Of one with a bias, transposed or not."""
    return size * size * inputs * outputs + outputs


def norm(channels: int) -> int:
    """Batch normalisation: scale, shift and two running statistics per channel."""
    return 4 * channels


def block(inputs: int, outputs: int) -> int:
    return conv(3, inputs, outputs) + norm(outputs) + conv(3, outputs, outputs) + norm(outputs)


def affine_block(inputs: int, outputs: int) -> int:
    """With group or instance normalisation: scale and shift alone."""
    return conv(3, inputs, outputs) + 2 * outputs + conv(3, outputs, outputs) + 2 * outputs


def bare_block(inputs: int, outputs: int) -> int:
    """Without normalisation: the convolutions have biases."""
    return biased(3, inputs, outputs) + biased(3, outputs, outputs)


def shortcut(inputs: int, outputs: int) -> int:
    """Around a block that changes the number of channels."""
    return conv(1, inputs, outputs) + norm(outputs)


def separable(inputs: int, outputs: int) -> int:
    """3×3 for each channel, then 1×1 over all of them."""
    return 9 * inputs + inputs * outputs


# Levels of 2, 4 and 8 channels; an upward step halves the channels, and the skip doubles what the block then takes.
_UNET = (
    (block(3, 2) + block(2, 4) + block(4, 8))
    + (biased(2, 8, 4) + block(4 + 4, 4))
    + (biased(2, 4, 2) + block(2 + 2, 2))
    + biased(1, 2, 1)
)


def _gate(skip: int, below: int) -> int:
    """θ: 2×2 without bias on the skip; φ: 1×1 on what lies below; ψ: 1×1 to one weight per pixel."""
    return conv(2, skip, skip) + biased(1, below, skip) + biased(1, skip, 1)


# Levels of 2, 4, 8 and 16 channels.
_ATTENTION_3 = (
    (block(3, 2) + block(2, 4) + block(4, 8) + block(8, 16))
    + (_gate(8, 16) + biased(2, 16, 8) + block(8 + 8, 8))
    + (_gate(4, 8) + biased(2, 8, 4) + block(4 + 4, 4))
    + (_gate(2, 4) + biased(2, 4, 2) + block(2 + 2, 2))
    + biased(1, 2, 1)
)


def _deeplab_head(deep: int, low: int) -> int:
    """For filters 2: width 8, low-level features reduced to 3·2/4 = 1 channel."""
    pyramid = (conv(1, deep, 8) + norm(8)) + 3 * (separable(deep, 8) + norm(8)) + biased(1, deep, 8)
    projected = conv(1, 5 * 8, 8) + norm(8)
    reduced = conv(1, low, 1) + norm(1)
    decoder = (separable(1 + 8, 8) + norm(8)) + (separable(8, 8) + norm(8))
    return pyramid + projected + reduced + decoder + biased(1, 8, 1)


def _deeplab_head_of_groups(deep: int, low: int) -> int:
    """The same with two numbers per normalised channel: 8 in each of 1 + 3 + 1 + 2 places, and 1."""
    return _deeplab_head(deep, low) - 2 * (7 * 8 + 1)


def _affine_residual(inputs: int, outputs: int) -> int:
    return affine_block(inputs, outputs) + conv(1, inputs, outputs) + 2 * outputs


PARAMETERS = {
    "unet": _UNET,
    # Levels of 3 and 6 channels.
    "unet_odd_size": block(3, 3) + block(3, 6) + biased(2, 6, 3) + block(3 + 3, 3) + biased(1, 3, 1),
    "unet_bfloat16": _UNET,
    "unet_float16": _UNET,
    "unet_residual": _UNET + shortcut(3, 2) + shortcut(2, 4) + shortcut(4, 8) + shortcut(8, 4) + shortcut(4, 2),
    # Levels of 16, 32 and 64 channels.
    "unet_group": (
        (affine_block(3, 16) + affine_block(16, 32) + affine_block(32, 64))
        + (biased(2, 64, 32) + affine_block(32 + 32, 32))
        + (biased(2, 32, 16) + affine_block(16 + 16, 16))
        + biased(1, 16, 1)
    ),
    "unet_instance": (
        (affine_block(3, 2) + affine_block(2, 4) + affine_block(4, 8))
        + (biased(2, 8, 4) + affine_block(8, 4))
        + (biased(2, 4, 2) + affine_block(4, 2))
        + biased(1, 2, 1)
    ),
    "unet_without_normalization": (
        (bare_block(3, 2) + bare_block(2, 4) + bare_block(4, 8))
        + (biased(2, 8, 4) + bare_block(8, 4))
        + (biased(2, 4, 2) + bare_block(4, 2))
        + biased(1, 2, 1)
    ),
    # 1×1 instead of 2×2 on the ways up.
    "unet_resize": _UNET - biased(2, 8, 4) - biased(2, 4, 2) + biased(1, 8, 4) + biased(1, 4, 2),
    "unet_dropout": _UNET,
    "unet_deep_supervision": _UNET,  # the other outputs are left behind when training ends
    "attention_unet": _UNET + _gate(4, 8) + _gate(2, 4),
    "attention_unet_deep_supervision": _ATTENTION_3,
    # Every node of the triangle: an upward step, and a block that takes it and all earlier nodes of its level.
    "unet_plus_plus": (
        (block(3, 2) + block(2, 4) + block(4, 8) + block(8, 16))
        + (biased(2, 4, 2) + block(2 * 2, 2))
        + (biased(2, 8, 4) + block(2 * 4, 4))
        + (biased(2, 16, 8) + block(2 * 8, 8))
        + (biased(2, 4, 2) + block(3 * 2, 2))
        + (biased(2, 8, 4) + block(3 * 4, 4))
        + (biased(2, 4, 2) + block(4 * 2, 2))
        + biased(1, 2, 1)
    ),
    "unet_plus_plus_deep_supervision": (
        (block(3, 2) + block(2, 4) + block(4, 8))
        + (biased(2, 4, 2) + block(2 * 2, 2))
        + (biased(2, 8, 4) + block(2 * 4, 4))
        + (biased(2, 4, 2) + block(3 * 2, 2))
        + biased(1, 2, 1)
    ),
    # Low-level features: level 2, of 8 channels; the last level has 16, or 32.
    "deeplabv3plus": (block(3, 2) + block(2, 4) + block(4, 8) + block(8, 16)) + _deeplab_head(16, 8),
    "deeplabv3plus_options": (
        (_affine_residual(3, 2) + _affine_residual(2, 4) + _affine_residual(4, 8))
        + (_affine_residual(8, 16) + _affine_residual(16, 32))
        + _deeplab_head_of_groups(32, 8)
    ),
}
