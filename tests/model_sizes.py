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


# Networks of keras.applications as far as an eighth of the image's size, where they end for depth 3.


def _squeeze(channels: int, reduced: int) -> int:
    """Squeeze and excitation: down and up again, each with a bias."""
    return biased(1, channels, reduced) + biased(1, reduced, channels)


def _inverted(size: int, inputs: int, expanded: int, outputs: int, reduced: int = 0) -> int:
    """1×1 up, size×size per channel, squeeze and excitation if there is any, 1×1 down; each but that normalised."""
    up = conv(1, inputs, expanded) + norm(expanded)
    each = size * size * expanded + norm(expanded)
    down = conv(1, expanded, outputs) + norm(outputs)
    return up + each + (_squeeze(expanded, reduced) if reduced else 0) + down


# Table 1 of the paper (large): stem; 16; 24, 24; 40, 40, 40; then the expansion to 240 that the next step halves. The
# first block has no expansion; squeezed to a quarter in multiples of 8 (72 → 24, 120 → 32).
_MOBILENET_LARGE = (
    (conv(3, 3, 16) + norm(16))
    + (9 * 16 + norm(16) + conv(1, 16, 16) + norm(16))
    + (_inverted(3, 16, 64, 24) + _inverted(3, 24, 72, 24))
    + (_inverted(5, 24, 72, 40, reduced=24) + 2 * _inverted(5, 40, 120, 40, reduced=32))
    + (conv(1, 40, 240) + norm(240))
)
# Table 2 (small): stem; 16, squeezed to 8; 24, 24; then the expansion to 96 that the next step halves.
_MOBILENET_SMALL = (
    (conv(3, 3, 16) + norm(16))
    + (9 * 16 + norm(16) + _squeeze(16, 8) + conv(1, 16, 16) + norm(16))
    + (_inverted(3, 16, 72, 24) + _inverted(3, 24, 88, 24))
    + (conv(1, 24, 96) + norm(96))
)


def _bottleneck(inputs: int, middle: int) -> int:
    """1×1, 3×3, 1×1 to four times the channels; Keras's convolutions have biases."""
    outputs = 4 * middle
    return (
        (biased(1, inputs, middle) + norm(middle))
        + (biased(3, middle, middle) + norm(middle))
        + (biased(1, middle, outputs) + norm(outputs))
    )


# Table 1 of the paper: 7×7 to 64; 3 blocks to 256; 4 blocks to 512; the first of each has a 1×1 shortcut.
_RESNET50 = (
    (biased(7, 3, 64) + norm(64))
    + (_bottleneck(64, 64) + biased(1, 64, 256) + norm(256) + 2 * _bottleneck(256, 64))
    + (_bottleneck(256, 128) + biased(1, 256, 512) + norm(512) + 3 * _bottleneck(512, 128))
)


def _fused(inputs: int, expanded: int, outputs: int) -> int:
    """3×3 up, 1×1 down."""
    return conv(3, inputs, expanded) + norm(expanded) + conv(1, expanded, outputs) + norm(outputs)


# Stem of 32; 16 by one 3×3; 32, 32; 48, 48; then the expansion to 192 that the next step halves.
_EFFICIENTNET = (
    (conv(3, 3, 32) + norm(32))
    + (conv(3, 32, 16) + norm(16))
    + (_fused(16, 64, 32) + _fused(32, 128, 32))
    + (_fused(32, 128, 48) + _fused(48, 192, 48))
    + (conv(1, 48, 192) + norm(192))
)


def _decoder(half: int, quarter: int, eighth: int) -> int:
    """Of levels of 8, 4 and 2 channels; at the image's own size there are no features of the encoder."""
    return (
        (biased(2, eighth, 8) + block(quarter + 8, 8))
        + (biased(2, 8, 4) + block(half + 4, 4))
        + (biased(2, 4, 2) + block(2, 2))
        + biased(1, 2, 1)
    )


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
    "unet_mobilenetv3small": _MOBILENET_SMALL + _decoder(half=16, quarter=72, eighth=96),
    "unet_mobilenetv3": _MOBILENET_LARGE + _decoder(half=64, quarter=72, eighth=240),
    "unet_resnet50": _RESNET50 + _decoder(half=64, quarter=256, eighth=512),
    "unet_efficientnetv2b0": _EFFICIENTNET + _decoder(half=16, quarter=32, eighth=192),
    "deeplabv3plus_mobilenetv3small": _MOBILENET_SMALL + _deeplab_head(96, 72),
}
