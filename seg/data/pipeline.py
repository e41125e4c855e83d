"""The input pipeline: records of a converted dataset to batches, in `tf.data`.

The order of the images and their augmentation are functions of (seed, epoch), never of a process's history: a run
that goes on at epoch 7 sees what it would have seen.
"""

import numpy as np
import tensorflow as tf

from seg.config import TrainConfig
from seg.data.augmentation import augment, draw
from seg.data.manifest import Manifest
from seg.errors import UserError

ORDER, AUGMENTATION = 0, 1  # two independent streams of random numbers from one seed


def training_dataset(
    manifest: Manifest, config: TrainConfig, batch_size: int, *, first_epoch: int = 1
) -> tf.data.Dataset:
    """Batches of the training split: endless, `examples // batch_size` per epoch, each epoch in a new order.

    What an epoch's last whole batch leaves over is dropped; another epoch drops other images.

    Args:
        manifest: the dataset.
        config: `seed`, `augmentation`, and `cache`: `memory` reads the split into memory, `file` reads from disk
            what a batch needs.
        batch_size: images per batch, over all replicas.
        first_epoch: counted from 1.

    Returns:
        batches of images `(batch_size, image_size, image_size, 3)`, 0 to 255, and masks
        `(batch_size, image_size, image_size, 1)`, values 0, 1 and 255 (ignored), both float32.

    Raises:
        UserError: if the split holds fewer images than one batch.
    """
    records = manifest.records("train")
    examples = len(records)
    if examples < batch_size:
        raise UserError(
            f"a batch must not be larger than the training split, which holds {examples} images, got {batch_size}; "
            f"use batch_size {examples} or less."
        )
    if config.cache == "memory":
        records = np.array(records)

    def epoch_order(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(examples, dtype=tf.int64), _stream(config.seed, epoch, ORDER), alg="philox"
        )
        draws = tf.gather(draw(examples, _stream(config.seed, epoch, AUGMENTATION)), order)
        return tf.data.Dataset.from_tensor_slices((order, draws)).batch(batch_size, drop_remainder=True)

    def load(indices: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _split(augment(_gather(records, indices), draws, config.augmentation))

    return (
        tf.data.Dataset.counter(first_epoch)
        .flat_map(epoch_order)
        .map(load, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def evaluation_dataset(manifest: Manifest, split: str, batch_size: int) -> tf.data.Dataset:
    """Every image of a split once, in the order of the records.

    The last batch is filled up with images of weight 0, so that all batches have one size and can be shared evenly
    by the replicas.

    Returns:
        batches of images and masks as in `training_dataset`, and weights `(batch_size,)` float32, 1 or 0.
    """
    records = manifest.records(split)
    examples = len(records)
    batches = -(-examples // batch_size)
    positions = np.arange(batches * batch_size).reshape(batches, batch_size)

    def load(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images, masks = _split(_gather(records, tf.minimum(positions, examples - 1)))
        return images, masks, tf.cast(positions < examples, tf.float32)

    return (
        tf.data.Dataset.from_tensor_slices(positions)
        .map(load, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def _stream(seed: int, epoch: tf.Tensor, stream: int) -> tf.Tensor:
    """The `(2,)` seed of one stream of random numbers in one epoch."""
    return tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(seed, tf.int64), epoch]), stream)


def _gather(records: np.ndarray, indices: tf.Tensor) -> tf.Tensor:
    """The records at `indices`, `(batch, size, size, 4)` uint8, in one NumPy call for the whole batch."""
    batch = tf.numpy_function(lambda chosen: records[chosen], [indices], tf.uint8)
    return tf.ensure_shape(batch, (indices.shape[0], *records.shape[1:]))


def _split(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Image and mask, for the first time apart, as float32."""
    records = tf.cast(records, tf.float32)
    return records[..., :3], records[..., 3:]
