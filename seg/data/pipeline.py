"""The input pipeline: records of a converted dataset to batches, in `tf.data`.

The order of the images and their augmentation are functions of (seed, epoch), never of a process's history: a run
that goes on at epoch 7 sees what it would have seen. No step of it is Python: a Python function in `tf.data` can
hang a process that ends while a batch is being fetched ahead.
"""

from typing import Any, cast

import numpy as np
import tensorflow as tf

from seg.config import TrainConfig
from seg.data.augmentation import augment, draw, parted
from seg.data.manifest import Manifest, is_foreground
from seg.errors import UserError

ORDER, AUGMENTATION, DRAWN = 0, 1, 2  # independent streams of random numbers from one seed
PARALLEL, PREFETCHED = 4, 2  # batches being made at a time; batches kept ready

# No branch here depends on a tensor: AutoGraph would translate the source code of all that is called, for nothing.
as_written = tf.autograph.experimental.do_not_convert


def training_dataset(
    manifest: Manifest, config: TrainConfig, batch_size: int, *, first_epoch: int = 1
) -> tf.data.Dataset:
    """Batches of the training split: endless, `examples // batch_size` per epoch, each epoch in a new order.

    What an epoch's last whole batch leaves over is dropped; another epoch drops other images.

    Args:
        manifest: the dataset.
        config: `seed`, `augmentation`, `foreground_share`, and `cache`: `memory` reads the split into memory, `file`
            reads from disk what a batch needs.
        batch_size: images per batch, over all replicas.
        first_epoch: counted from 1.

    Returns:
        batches of images `(batch_size, image_size, image_size, 3)`, 0 to 255, and masks
        `(batch_size, image_size, image_size, 1)`, values 0, 1 (or 1, 2, …: the class) and 255 (ignored), both float32.

    Raises:
        UserError: if the split holds fewer images than one batch.
    """
    examples = len(manifest.records("train"))
    if examples < batch_size:
        raise UserError(
            f"a batch must not be larger than the training split, which holds {examples} images, got {batch_size}; "
            f"use batch_size {examples} or less."
        )
    records = _records(manifest, "train", in_memory=config.cache == "memory")
    kinds = _kinds(manifest, config.foreground_share)

    @as_written
    def epoch_order(epoch: tf.Tensor) -> tf.data.Dataset:
        drawn = [
            tf.tile(_shuffled(kind, _stream(config.seed, epoch, DRAWN + k)), [-(-count // len(kind))])[:count]
            for k, (kind, count) in enumerate(kinds)
        ]
        order = _shuffled(tf.concat(drawn, 0), _stream(config.seed, epoch, ORDER))
        draws = tf.gather(draw(examples, _stream(config.seed, epoch, AUGMENTATION)), order)
        return tf.data.Dataset.from_tensor_slices((order, draws)).batch(batch_size, drop_remainder=True)

    @as_written
    def load(indices: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return augment(tf.gather(records, indices), draws, config.augmentation)

    return (
        tf.data.Dataset.counter(first_epoch)
        .flat_map(epoch_order)
        .map(load, num_parallel_calls=PARALLEL)
        .prefetch(PREFETCHED)
        .with_options(_options())
    )


def evaluation_dataset(manifest: Manifest, split: str, batch_size: int) -> tf.data.Dataset:
    """Every image of a split once, in the order of the records.

    The last batch is filled up with images of weight 0, so that all batches have one size and can be shared evenly
    by the replicas.

    Returns:
        batches of images and masks as in `training_dataset`, and weights `(batch_size,)` float32, 1 or 0.
    """
    records = _records(manifest, split, in_memory=False)
    examples = len(records)
    batches = -(-examples // batch_size)
    positions = np.arange(batches * batch_size).reshape(batches, batch_size)

    @as_written
    def load(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images, masks = parted(tf.gather(records, tf.minimum(positions, examples - 1)))
        return images, masks, tf.cast(positions < examples, tf.float32)

    return (
        tf.data.Dataset.from_tensor_slices(positions)
        .map(load, num_parallel_calls=PARALLEL)
        .prefetch(PREFETCHED)
        .with_options(_options())
    )


def _kinds(manifest: Manifest, foreground_share: float) -> list[tuple[np.ndarray, int]]:
    """The records of the training split by kind, and how many of each kind an epoch has."""
    records = manifest.records("train")
    everything = np.arange(len(records), dtype=np.int64)
    if not foreground_share:
        return [(everything, len(records))]
    foreground = np.array([bool(is_foreground(record[..., 3]).any()) for record in records])
    wanted = round(foreground_share * len(records))
    kinds = [(everything[foreground], wanted), (everything[~foreground], len(records) - wanted)]
    if not foreground.any() or foreground.all():
        return [(everything, len(records))]  # there is nothing to choose from
    return [(kind, count) for kind, count in kinds if count]


def _shuffled(indices: Any, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_shuffle(tf.convert_to_tensor(indices), seed, alg="philox")


def _stream(seed: int, epoch: tf.Tensor, stream: int) -> tf.Tensor:
    """The `(2,)` seed of one stream of random numbers in one epoch."""
    return tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(seed, tf.int64), epoch]), stream)


def _records(manifest: Manifest, split: str, *, in_memory: bool) -> tf.Tensor:
    """The records of a split, `(examples, size, size, 4)` uint8: copied into memory, or mapped from their file."""
    records = cast("np.memmap[Any, np.dtype[np.uint8]]", manifest.records(split))
    # DLPack shares writable arrays only. Nothing writes, and with mode "c" nothing written would reach the file.
    shared = np.memmap(str(records.filename), np.uint8, "c", records.offset, records.shape)
    mapped = tf.experimental.dlpack.from_dlpack(shared.__dlpack__())
    return tf.raw_ops.DeepCopy(x=mapped) if in_memory else mapped


def _options() -> tf.data.Options:
    """tf.data rewrites a pipeline to speed it up, and copies the tensors that it captures: all of the records."""
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
