"""One pass over a split on all replicas that sees every image exactly once."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

PerImageFunction = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]


class EveryImage:
    """Applies a function to every image of a split, in order; can be iterated again and again, traced once.

    Iteration yields, batch by batch, one array per result of the function, `(images, ...)`, on the host: whoever
    adds them up gets the same sum for any number of replicas, the padding of the last batch left out.

    Args:
        function: from images and masks, `(batch, height, width, channels)`, to results `(batch, ...)`; it runs on
            each replica with the replica's share of the batch.
        dataset: batches of (images, masks, weights), as `evaluation_dataset` gives them; the strategy's number of
            replicas divides the batch size.
        strategy: the strategy that holds the variables which the function reads.
    """

    def __init__(self, function: PerImageFunction, dataset: tf.data.Dataset, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self._batches = strategy.experimental_distribute_dataset(dataset)

        def on_replica(images: tf.Tensor, masks: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return (weights, *function(images, masks))

        @tf.function(autograph=False)  # no branch depends on a tensor, and translating the code takes its time
        def on_all_replicas(images: tf.Tensor, masks: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return strategy.run(on_replica, args=(images, masks, weights))

        self._step = on_all_replicas

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        for batch in self._batches:
            weights, *results = (self._on_host(result) for result in self._step(*batch))
            yield tuple(result[weights == 1] for result in results)

    def _on_host(self, result: tf.Tensor) -> np.ndarray:
        """The replicas' shares of a result, in the order of the batch."""
        return np.concatenate([share.numpy() for share in self._strategy.experimental_local_results(result)])
