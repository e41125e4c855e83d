"""How fast a configuration trains here: its own training step on its own images, for some seconds."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.data.pipeline import training_dataset
from seg.models import final_model
from seg.training.devices import effective_batch_size
from seg.training.fit import compiled_model

WARM_STEPS, LEAST_STEPS = 2, 2
_ENDLESS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class StepSpeed:
    """What was measured.

    Attributes:
        images_per_second: of training, validation left out.
        batch_size, replicas: as the training would have them.
        model_bytes: variables of the model that is saved.
        checkpoint_bytes: variables of model and optimizer.
    """

    images_per_second: float
    batch_size: int
    replicas: int
    model_bytes: int
    checkpoint_bytes: int


def measure_step_speed(
    config: TrainConfig,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    seconds: float,
    ready: Callable[[], object] = lambda: None,
) -> StepSpeed:
    """Trains for `seconds`, two steps at least, after two that trace the model and are not counted.

    Args:
        config, manifest, strategy: as for `fit`.
        ready: called before the seconds begin; it may wait for other processes.

    Raises:
        UserError: if configuration and dataset do not fit together.
    """
    replicas = strategy.num_replicas_in_sync
    batch_size = effective_batch_size(config.batch_size, replicas)
    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        steps = manifest.splits["train"].examples // batch_size
        plain, model = compiled_model(config, steps, len(manifest.classes))
    clock = _Clock(seconds, ready)
    model.fit(
        training_dataset(manifest, config, batch_size),
        steps_per_epoch=_ENDLESS,
        epochs=1,
        shuffle=False,
        verbose=0,
        callbacks=[clock],
    )
    return StepSpeed(
        images_per_second=clock.steps * batch_size / clock.elapsed,
        batch_size=batch_size,
        replicas=replicas,
        model_bytes=_bytes(final_model(plain).variables),
        checkpoint_bytes=_bytes([*model.variables, *model.optimizer.variables]),
    )


class _Clock(keras.callbacks.Callback):
    """Counts steps for some seconds, after `ready`."""

    def __init__(self, seconds: float, ready: Callable[[], object]) -> None:
        super().__init__()
        self.steps, self.elapsed = 0, 0.0
        self._seconds = seconds
        self._ready = ready
        self._started = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch < WARM_STEPS - 1:
            return
        if batch == WARM_STEPS - 1:
            self._ready()
            self._started = time.perf_counter()
            return
        self.steps += 1
        self.elapsed = time.perf_counter() - self._started
        if self.steps >= LEAST_STEPS and self.elapsed >= self._seconds:
            self.model.stop_training = True


def _bytes(variables: Sequence[keras.Variable]) -> int:
    return sum(
        np.dtype(keras.backend.standardize_dtype(each.dtype)).itemsize * math.prod(each.shape) for each in variables
    )
