"""What the architectures are made of: blocks of two convolutions, a plain encoder, ways up, and the logits.

Residual blocks: He et al., Deep Residual Learning for Image Recognition (2016), https://arxiv.org/abs/1512.03385.
Normalisation: Ioffe and Szegedy, Batch Normalization (2015), https://arxiv.org/abs/1502.03167; Wu and He, Group
Normalization (2018), https://arxiv.org/abs/1803.08494; Ulyanov et al., Instance Normalization (2016),
https://arxiv.org/abs/1607.08022. Resizing instead of transposed convolutions: Odena et al., Deconvolution and
Checkerboard Artifacts (2016), https://doi.org/10.23915/distill.00003. Deep supervision: Lee et al., Deeply-Supervised
Nets (2015), https://arxiv.org/abs/1409.5185.
"""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers

from seg.config import TrainConfig

# Of the running statistics. Keras's 0.99 needs hundreds of steps to forget where it began: after the few hundred steps
# of a short training, predictions made with them are far from those made with a batch's own statistics.
MOMENTUM = 0.9

CHANNELS_PER_GROUP = 8
"""Of group normalisation; more where the channels cannot be divided so."""

LOGITS = "logits"
"""Name of the layer that emits a model's result, beside whatever deep supervision adds."""


def synchronized() -> bool:
    """Whether batch normalisation needs the statistics of all replicas; call it within the strategy's scope."""
    # Plain statistics per replica would make the result depend on the number of replicas; one replica is spared the
    # all-reduce. The saved layer gives the same values either way.
    return tf.distribute.get_strategy().num_replicas_in_sync > 1


class Blocks:
    """Makes the parts of one model, all with the options of its configuration.

    Features are Keras tensors `(batch, height, width, channels)`; each name is the prefix of the names of the layers.

    Args:
        config: `precision`, `block`, `normalization`, `upsampling` and `dropout` are read here.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.policy = keras.DTypePolicy(config.precision)
        self._block = config.block
        self._normalization = config.normalization
        self._upsampling = config.upsampling
        self._dropout = config.dropout
        self._synchronized = synchronized()

    def unit(
        self, x: keras.KerasTensor, channels: int, name: str, suffix: str = "", *, size: int = 3, relu: bool = True
    ) -> keras.KerasTensor:
        """Convolution of `size`×`size`, normalisation and, with `relu`, ReLU."""
        x = layers.Conv2D(
            channels,
            size,
            padding="same",
            use_bias=self._normalization == "none",  # a normalisation would take the bias out again
            kernel_initializer="he_normal",
            dtype=self.policy,
            name=f"{name}_convolution{suffix}",
        )(x)
        return self._finish(x, name, suffix, relu)

    def separable_unit(
        self, x: keras.KerasTensor, channels: int, name: str, suffix: str = "", *, dilation: int = 1
    ) -> keras.KerasTensor:
        """As `unit` with a 3×3 convolution per channel, `dilation` pixels apart, and a 1×1 convolution over them."""
        x = layers.SeparableConv2D(
            channels,
            3,
            padding="same",
            dilation_rate=dilation,
            use_bias=self._normalization == "none",
            # Keras would count the inputs of all channels, of which each filter sees one: 1/3 keeps the variance.
            depthwise_initializer=keras.initializers.RandomNormal(stddev=1 / 3),
            pointwise_initializer="he_normal",
            dtype=self.policy,
            name=f"{name}_convolution{suffix}",
        )(x)
        return self._finish(x, name, suffix, relu=True)

    def block(self, x: keras.KerasTensor, channels: int, name: str) -> keras.KerasTensor:
        """Two units of 3×3; a residual block adds its input before the last ReLU, after a 1×1 unit if need be."""
        if self._block == "plain":
            x = self.unit(x, channels, name, "_1")
            x = self.unit(x, channels, name, "_2")
        else:
            shortcut = x
            if x.shape[-1] != channels:
                shortcut = self.unit(x, channels, name, "_shortcut", size=1, relu=False)
            x = self.unit(x, channels, name, "_1")
            x = self.unit(x, channels, name, "_2", relu=False)
            x = layers.Add(dtype=self.policy, name=f"{name}_add")([x, shortcut])
            x = layers.ReLU(dtype=self.policy, name=f"{name}_relu_2")(x)
        return self.drop(x, name)

    def drop(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        """Dropout, where there is any."""
        if not self._dropout:
            return x
        return layers.Dropout(self._dropout, dtype=self.policy, name=f"{name}_dropout")(x)

    def up(self, x: keras.KerasTensor, channels: int, name: str) -> keras.KerasTensor:
        """Twice the size: a transposed 2×2 convolution; or a 1×1 convolution, resized.

        Convolution and bilinear interpolation may change places, and before it there are four times fewer pixels.
        """
        if self._upsampling == "transposed":
            return layers.Conv2DTranspose(channels, 2, strides=2, dtype=self.policy, name=f"{name}_up")(x)
        x = layers.Conv2D(channels, 1, dtype=self.policy, name=f"{name}_up")(x)
        return self.resize(x, 2, f"{name}_resize")

    def resize(self, x: keras.KerasTensor, factor: int, name: str) -> keras.KerasTensor:
        """`factor` times the size, bilinear."""
        return layers.UpSampling2D(factor, interpolation="bilinear", dtype=self.policy, name=name)(x)

    def join(self, parts: Sequence[keras.KerasTensor], name: str) -> keras.KerasTensor:
        """The channels of all parts; a part alone stays as it is."""
        if len(parts) == 1:
            return parts[0]
        return layers.Concatenate(dtype=self.policy, name=f"{name}_concatenate")(list(parts))

    def encoder(self, image: keras.KerasTensor, filters: int, depth: int) -> list[keras.KerasTensor]:
        """A block at each of `depth + 1` levels, the image halved between them.

        Args:
            image: `(batch, image_size, image_size, 3)`, 0 to 255.

        Returns:
            The features of the levels: the one of number `k` has `filters * 2**k` channels and is `2**k` times smaller.
        """
        x = layers.Rescaling(1 / 255, dtype=self.policy, name="rescaling")(image)
        features = []
        for level in range(depth):
            x = self.block(x, filters * 2**level, f"encoder_{level}")
            features.append(x)
            x = layers.MaxPooling2D(2, dtype=self.policy, name=f"encoder_{level}_pool")(x)
        return [*features, self.block(x, filters * 2**depth, "bottom")]

    def _finish(self, x: keras.KerasTensor, name: str, suffix: str, relu: bool) -> keras.KerasTensor:
        normalization = self._normalize(x.shape[-1], f"{name}_normalization{suffix}")
        x = x if normalization is None else normalization(x)
        return layers.ReLU(dtype=self.policy, name=f"{name}_relu{suffix}")(x) if relu else x

    def _normalize(self, channels: int, name: str) -> layers.Layer | None:
        if self._normalization == "none":
            return None
        if self._normalization == "batch":
            return layers.BatchNormalization(
                momentum=MOMENTUM, synchronized=self._synchronized, dtype=self.policy, name=name
            )
        groups = math.gcd(channels, max(1, channels // CHANNELS_PER_GROUP))
        if self._normalization == "instance":
            groups = channels
        return layers.GroupNormalization(groups=groups, dtype=self.policy, name=name)


def logit_channels(classes: int) -> int:
    """Logits per pixel: one for one class; else background and the classes."""
    return 1 if classes == 1 else 1 + classes


def finish_model(
    image: keras.KerasTensor,
    x: keras.KerasTensor,
    name: str,
    channels: int,
    auxiliary: Sequence[keras.KerasTensor] = (),
) -> keras.Model:
    """A model from the image to its logits, float32.

    Args:
        image: `(batch, image_size, image_size, 3)`.
        x: the last features, of the image's size.
        channels: logits per pixel, of each output.
        auxiliary: further features, of any size, each of which shall give logits of its own while training.

    Returns:
        a model that emits `(batch, image_size, image_size, channels * (1 + len(auxiliary)))`: the layer `LOGITS` first.
    """
    outputs = [layers.Conv2D(channels, 1, dtype="float32", name=LOGITS)(x)]
    for number, features in enumerate(auxiliary):
        logits = layers.Conv2D(channels, 1, dtype="float32", name=f"auxiliary_{number}")(features)
        factor = image.shape[1] // features.shape[1]
        if factor > 1:
            resize = layers.UpSampling2D(
                factor, interpolation="bilinear", dtype="float32", name=f"auxiliary_{number}_up"
            )
            logits = resize(logits)
        outputs.append(logits)
    together = outputs[0] if not auxiliary else layers.Concatenate(dtype="float32", name="all_logits")(outputs)
    return keras.Model(image, together, name=name)
