"""The moving average of the weights, in the place of the weights while a model is validated and saved.

An average of the weights of many steps scores better than the last step's (Polyak and Juditsky, 1992). The running
statistics of batch normalisation belong to the raw weights, though: with them, averaged weights of an early epoch score
near zero. They are computed anew for the averaged weights, from training batches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import keras
import tensorflow as tf
from keras import layers

from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.data.pipeline import training_dataset

STATISTICS_BATCHES = 20
"""Training batches that the statistics of the averaged weights are computed from."""


class WeightAverage:
    """The average that a model's optimizer keeps.

    Args:
        model: compiled with an optimizer of `make_optimizer`; `config.ema` is not 0.
        config, manifest, batch_size: as it is trained.
        strategy: that holds its variables.
    """

    def __init__(
        self,
        model: keras.Model,
        config: TrainConfig,
        manifest: Manifest,
        batch_size: int,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self._model = model
        self._config = replace(config, cache="file")  # a few batches do not need the whole split in memory
        self._manifest = manifest
        self._batch_size = batch_size
        self._strategy = strategy
        self._normalizations = [
            layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)
        ]

        @tf.function
        def forward(images: tf.Tensor) -> None:
            strategy.run(lambda images: model(images, training=True), args=(images,))

        self._forward = forward

    @contextmanager
    def applied(self, epoch: int) -> Iterator[None]:
        """The model has averaged weights and their statistics within, and its own again after.

        Args:
            epoch: counted from 1; its first batches give the statistics, so that they do not depend on what ran before.
        """
        own = [variable.numpy() for variable in self._model.variables]
        optimizer = self._model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        averages = [average.numpy() for average in optimizer._model_variables_moving_average]
        try:
            with self._strategy.scope():
                for variable, average in zip(self._model.trainable_variables, averages, strict=True):
                    variable.assign(average)
                self._compute_statistics(epoch)
            yield
        finally:
            with self._strategy.scope():
                for variable, value in zip(self._model.variables, own, strict=True):
                    variable.assign(value)

    def _compute_statistics(self, epoch: int) -> None:
        if not self._normalizations:
            return
        for layer in self._normalizations:
            layer.moving_mean.assign(tf.zeros_like(layer.moving_mean))
            layer.moving_variance.assign(tf.zeros_like(layer.moving_variance))
        batches = training_dataset(self._manifest, self._config, self._batch_size, first_epoch=epoch)
        count = min(STATISTICS_BATCHES, self._manifest.splits["train"].examples // self._batch_size)
        images = batches.map(lambda images, masks: images).take(count).with_options(batches.options())
        for batch in self._strategy.experimental_distribute_dataset(images):
            self._forward(batch)
        for layer in self._normalizations:
            # Begun at 0, a moving average of k steps has 1 - momentum**k of the whole weight.
            weight = 1.0 - layer.momentum**count
            layer.moving_mean.assign(layer.moving_mean / weight)
            layer.moving_variance.assign(layer.moving_variance / weight)
