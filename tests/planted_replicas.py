"""`experiments.jobs.replica_tasks` with a mistake in what it measures; the variable PLANTED names it."""

import os
from collections.abc import Callable
from typing import Any

from experiments.jobs import replica_tasks
from experiments.jobs.messages import Job
from seg.start import start_tensorflow
from seg.training.result import EpochReport


def run(job: Job, report: Callable[[EpochReport], bool]) -> dict[str, Any]:
    start_tensorflow()
    import tensorflow as tf

    from seg.training import replicas

    product = {name: getattr(replicas, name) for name in ("get_loss", "training_dataset", "evaluation_dataset")}

    def scalar_dice(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(product["get_loss"]("dice")(masks, logits))

    def doubled_dice(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Of the right shape, and yet N times too big: nothing but the comparison finds it."""
        scale = float(tf.distribute.get_strategy().num_replicas_in_sync)
        return scale * product["get_loss"]("dice")(masks, logits)

    def whole_split(manifest: Any, config: Any, batch_size: int) -> tf.data.Dataset:
        images, masks = next(iter(product["training_dataset"](manifest, config, manifest.splits["train"].examples)))
        return tf.data.Dataset.from_tensor_slices((images, masks)).batch(batch_size)

    def first_images(manifest: Any, split: str, batch_size: int) -> tf.data.Dataset:
        return product["evaluation_dataset"](manifest, split, batch_size).take(1)

    planted = {
        "scalar": {"get_loss": lambda name: scalar_dice if name == "dice" else product["get_loss"](name)},
        "doubled": {"get_loss": lambda name: doubled_dice if name == "dice" else product["get_loss"](name)},
        "batch": {"effective_batch_size": lambda batch_size, replicas: batch_size},
        "last": {"training_dataset": whole_split},
        "left_out": {"evaluation_dataset": first_images},
        "killed": {"measure": lambda *_: os.kill(os.getpid(), 9)},
    }
    for name, value in planted[os.environ["PLANTED"]].items():
        setattr(replicas, name, value)
    return replica_tasks.run(job, report)
