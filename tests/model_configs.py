"""A TrainConfig for every kind of model: what tests/test_models.py and its worker take every model from."""

from seg.config import TrainConfig

SMALL = TrainConfig(image_size=16, filters=2, depth=2, batch_size=8, learning_rate=0.01, epochs=3)


def _config(**changes: object) -> TrainConfig:
    return TrainConfig(**SMALL.as_dict() | changes)


CONFIGS = {
    "unet": _config(),
    "unet_odd_size": _config(image_size=20, filters=3, depth=1),
    "unet_bfloat16": _config(precision="mixed_bfloat16"),
    "unet_float16": _config(precision="mixed_float16"),
    "unet_residual": _config(block="residual"),
    "unet_group": _config(normalization="group", filters=16),
    "unet_instance": _config(normalization="instance"),
    "unet_without_normalization": _config(normalization="none"),
    "unet_resize": _config(upsampling="resize"),
    "unet_dropout": _config(dropout=0.2),
    "unet_deep_supervision": _config(deep_supervision="yes"),
    "attention_unet": _config(architecture="attention_unet"),
    "attention_unet_deep_supervision": _config(
        architecture="attention_unet", depth=3, deep_supervision="yes", precision="mixed_bfloat16"
    ),
    "unet_plus_plus": _config(architecture="unet_plus_plus", depth=3),
    "unet_plus_plus_deep_supervision": _config(architecture="unet_plus_plus", deep_supervision="yes"),
    "deeplabv3plus": _config(architecture="deeplabv3plus", image_size=32, depth=3),
    "deeplabv3plus_options": _config(
        architecture="deeplabv3plus", image_size=32, depth=4, block="residual", normalization="group", dropout=0.1
    ),
    **{
        f"unet_{encoder}": _config(encoder=encoder, image_size=32, depth=3)
        for encoder in ("mobilenetv3small", "mobilenetv3", "resnet50", "efficientnetv2b0")
    },
    "deeplabv3plus_mobilenetv3small": _config(
        architecture="deeplabv3plus", encoder="mobilenetv3small", image_size=32, depth=3
    ),
}

RANDOM = ("unet_dropout", "deeplabv3plus_options")
"""What drops features while training: replicas draw other ones than one device."""
