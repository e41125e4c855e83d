"""How far the served graph of a bfloat16 model is from the model that was scored, and both from float32.

    python -m benchmarks.served WORKSPACE/studies/STUDY/TRIAL/model.keras WORKSPACE/datasets/KEY

Prints, over the validation images of a converted dataset: the mean Dice of each, the root mean square of the difference
of its probabilities from those of float32, and the share of pixels that the served graph decides otherwise.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seg.data.manifest import Manifest
from seg.metrics import hard_dice
from seg.start import start_tensorflow

_BATCH = 16


def probabilities(logits: Callable[[np.ndarray], Any], images: np.ndarray) -> np.ndarray:
    """(images, size, size) of a model with one class."""
    parts = [np.asarray(logits(images[start : start + _BATCH])) for start in range(0, len(images), _BATCH)]
    return 0.5 * (1 + np.tanh(0.5 * np.concatenate(parts)[..., 0]))


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.served", description=__doc__)
    options.add_argument("model", type=Path, help="a .keras file of precision mixed_bfloat16")
    options.add_argument("dataset", type=Path, help="folder of a converted dataset of its size")
    given = options.parse_args()
    start_tensorflow()
    import keras
    import tensorflow as tf

    from seg.serving_graph import serving_graph

    model = keras.models.load_model(given.model, compile=False, safe_mode=True)
    config = json.dumps(model.get_config()).replace("mixed_bfloat16", "float32")
    exact = keras.Model.from_config(json.loads(config))
    exact.set_weights(model.get_weights())
    records = Manifest.load(given.dataset).records("val")
    images, masks = np.ascontiguousarray(records[..., :3]), records[..., 3]

    def plain(network: Any) -> Callable[[np.ndarray], Any]:
        def call(batch: np.ndarray) -> Any:
            return network(tf.cast(batch, tf.float32), training=False)

        return call

    right = probabilities(plain(exact), images)
    scored, served = probabilities(plain(model), images), probabilities(serving_graph(model), images)
    for name, found in (("float32", right), ("as scored", scored), ("as served", served)):
        error = float(np.sqrt(np.mean((found - right) ** 2)))
        print(f"{name:9}  Dice {hard_dice(masks, found >= 0.5).mean():.4f}  from float32 {error:.5f}")
    print(f"pixels decided otherwise than as scored: {np.mean((served >= 0.5) != (scored >= 0.5)):.2%}")


if __name__ == "__main__":
    main()
