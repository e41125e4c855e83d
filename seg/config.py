"""`TrainConfig`: everything that decides how one model is trained, validated once, here."""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any

from seg.errors import UserError

LOSSES = ("bce", "dice", "bce_dice", "focal_tversky", "batch_dice")
AUGMENTATIONS = ("none", "flip", "full", "square")
OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine")
CACHES = ("memory", "file")
ARCHITECTURES = ("unet", "attention_unet", "unet_plus_plus", "deeplabv3plus")
ENCODERS = ("none", "mobilenetv3small", "mobilenetv3", "resnet50", "efficientnetv2b0")
WITH_ENCODER = ("unet", "deeplabv3plus")
WEIGHTS_SUFFIXES = (".h5", ".hdf5")
BLOCKS = ("plain", "residual")
NORMALIZATIONS = ("batch", "group", "instance", "none")
UPSAMPLINGS = ("transposed", "resize")
NO_YES = ("no", "yes")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "auto")


def _option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field whose help text and choices the command line shows as they stand here."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The configuration of one training run; the fields stand in the order in which they are used.

    The defaults are the seed's setting: a U-Net on 256×256×3 images, Adam, batch 10, no augmentation.

    Raises:
        UserError: if a value is out of its range, or if two values do not fit together.
    """

    image_size: int = _option(256, "side of the square that images are resized to, in pixels")
    cache: str = _option("memory", "where the converted images are kept while training", CACHES)
    augmentation: str = _option("none", "random changes of the training images", AUGMENTATIONS)
    foreground_share: float = _option(
        0.0, "share of an epoch's training images that have foreground, some more than once; 0: as they come"
    )
    batch_size: int = _option(10, "images per step, over all devices together")
    architecture: str = _option("unet", "the kind of network", ARCHITECTURES)
    encoder: str = _option("none", "network of keras.applications as the encoder, for unet and deeplabv3plus", ENCODERS)
    encoder_weights: str = _option(
        "none", "what the encoder begins with: none, random; imagenet, downloaded; or a file such as resnet50.h5"
    )
    filters: int = _option(64, "channels of the first level; each level below doubles them")
    depth: int = _option(4, "times that the image is halved")
    block: str = _option("plain", "two convolutions; or two and a way around them", BLOCKS)
    normalization: str = _option("batch", "what is normalised after a convolution", NORMALIZATIONS)
    upsampling: str = _option("transposed", "transposed convolutions, or bilinear resizing", UPSAMPLINGS)
    dropout: float = _option(0.0, "share of the features that are dropped after each block while training")
    deep_supervision: str = _option("no", "whether the decoder's other levels are compared with the mask", NO_YES)
    loss: str = _option("bce", "what is minimised", LOSSES)
    optimizer: str = _option("adam", "how the weights follow the gradient", OPTIMIZERS)
    learning_rate: float = _option(1e-3, "step size of the optimizer, at its highest")
    schedule: str = _option("constant", "learning_rate over the epochs; cosine: falls to 0 at the last one", SCHEDULES)
    warmup_epochs: int = _option(0, "epochs over which learning_rate rises from 0")
    weight_decay: float = _option(0.01, "share of each weight that adamw takes away per step, times learning_rate")
    clip_norm: float = _option(0.0, "largest norm of the gradient over all weights; a longer one is shortened; 0: any")
    ema: float = _option(
        0.0, "what is validated and kept: moving average of the weights that keeps this share per step; 0: the weights"
    )
    epochs: int = _option(20, "passes over the training images, at most")
    patience: int = _option(10, "epochs without a better val_dice after which training stops; 0: never")
    precision: str = _option(
        "float32", "number format of the layers' arithmetic; auto: the one known to be fastest here", PRECISIONS
    )
    devices: str = _option("auto", "auto: all GPUs, else the CPU; cpu:N: N logical CPU devices")
    seed: int = _option(0, "seed of the weights, the order of the images and the augmentation")

    def __post_init__(self) -> None:
        for name in ("image_size", "batch_size", "filters", "depth", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("warmup_epochs", "patience", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if self.seed >= 2**32:
            raise UserError(f"seed must be below 4294967296, got {self.seed}.")  # NumPy takes no larger one
        for name, known in (
            ("loss", LOSSES),
            ("augmentation", AUGMENTATIONS),
            ("cache", CACHES),
            ("architecture", ARCHITECTURES),
            ("encoder", ENCODERS),
            ("block", BLOCKS),
            ("normalization", NORMALIZATIONS),
            ("upsampling", UPSAMPLINGS),
            ("deep_supervision", NO_YES),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'.")
        if not re.fullmatch(r"auto|cpu:[1-9]\d{0,2}", self.devices):
            raise UserError(f"devices must be auto or cpu:N with N from 1 to 999, got '{self.devices}'.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"learning_rate must be a positive number, got {self.learning_rate}.")
        for name in ("weight_decay", "clip_norm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UserError(f"{name} must be a number of at least 0, got {getattr(self, name)}.")
        if not 0 <= self.foreground_share <= 1:
            raise UserError(f"foreground_share must be from 0 to 1, got {self.foreground_share}.")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema must be at least 0 and below 1, got {self.ema}.")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise UserError(f"warmup_epochs must be fewer than the {self.epochs} epochs, got {self.warmup_epochs}.")
        if self.depth > 10:
            raise UserError(f"depth must be at most 10, got {self.depth}.")
        multiple = 2**self.depth
        if self.image_size % multiple:
            below = self.image_size // multiple * multiple
            sizes = f"{below} or {below + multiple}" if below else f"{multiple}"
            raise UserError(
                f"image_size must be a multiple of {multiple} for depth {self.depth}, "
                f"got {self.image_size}; use {sizes}."
            )
        self._check_architecture()

    def _check_architecture(self) -> None:
        """Whether the fields that describe the model fit together."""
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be at least 0 and below 1, got {self.dropout}.")
        if self.normalization == "instance" and self.image_size == 2**self.depth:
            raise UserError(
                f"normalization instance needs more than one pixel at depth {self.depth}, got image_size "
                f"{self.image_size}; use {2 * self.image_size} or normalization group."
            )
        if self.architecture == "deeplabv3plus" and not 3 <= self.depth <= 5:
            raise UserError(f"depth must be 3, 4 or 5 for deeplabv3plus, got {self.depth}.")
        if self.deep_supervision == "yes" and (self.architecture == "deeplabv3plus" or self.depth < 2):
            raise UserError(
                "deep_supervision needs a decoder of two levels: architecture unet, attention_unet or unet_plus_plus, "
                f"depth 2 or more, got {self.architecture} and depth {self.depth}."
            )
        self._check_encoder()

    def _check_encoder(self) -> None:
        if self.encoder == "none":
            if self.encoder_weights != "none":
                raise UserError(
                    f"encoder_weights must be none without an encoder, got '{self.encoder_weights}'; choose "
                    f"encoder {', '.join(ENCODERS[1:])}."
                )
            return
        if self.architecture not in WITH_ENCODER:
            raise UserError(
                f"encoder must be none for {self.architecture}, got '{self.encoder}'; {' and '.join(WITH_ENCODER)} "
                "take one."
            )
        if self.depth > 5:
            raise UserError(
                f"depth must be at most 5 with an encoder, which halves the image 5 times, got {self.depth}."
            )
        if self.image_size < 32:
            raise UserError(f"image_size must be at least 32 with an encoder, got {self.image_size}.")
        if self.encoder_weights not in ("none", "imagenet") and not self.encoder_weights.endswith(WEIGHTS_SUFFIXES):
            raise UserError(
                f"encoder_weights must be none, imagenet or a file that ends in {' or '.join(WEIGHTS_SUFFIXES)}, got "
                f"'{self.encoder_weights}'."
            )

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, in order; `TrainConfig(**config.as_dict()) == config`."""
        return dataclasses.asdict(self)
