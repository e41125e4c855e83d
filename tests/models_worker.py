"""Run as `python -m tests.models_worker DEVICES NAME...`: one step of gradient descent per configuration, as JSON.

Logical devices can be chosen once per process, hence a process per number of devices.
"""

import json
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from seg.config import TrainConfig
from seg.losses import bce, mean_over_outputs
from seg.models import build_training_model
from seg.training.devices import make_strategy
from tests.model_configs import CONFIGS

IMAGES = 8


def step(config: TrainConfig, strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """With learning rate 1, the change of a weight is its gradient."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, config.image_size, config.image_size, 3)).astype(np.float32)
    masks = (images[..., :1] > 128).astype(np.uint8)
    with strategy.scope():
        model = build_training_model(config)
        before = [weight.numpy() for weight in model.trainable_variables]
        model.compile(optimizer=keras.optimizers.SGD(1.0), loss=mean_over_outputs(bce), jit_compile=False)
    batch = tf.data.Dataset.from_tensor_slices((images, masks)).batch(IMAGES, drop_remainder=True)
    history = model.fit(batch, epochs=1, verbose=0, shuffle=False)
    gradients = [old - new.numpy() for old, new in zip(before, model.trainable_variables, strict=True)]
    statistics = [weight.numpy() for weight in model.non_trainable_variables if "moving" in weight.path]
    return {
        "replicas": strategy.num_replicas_in_sync,
        "loss": history.history["loss"][0],
        "gradient": {
            weight.path: part.ravel()[:1000].tolist()  # a large encoder has millions
            for weight, part in zip(model.trainable_variables, gradients, strict=True)
        },
        "statistics": [float(part.mean()) for part in statistics],
    }


def main(devices: str, *names: str) -> None:
    strategy = make_strategy(devices)
    print(json.dumps({name: step(CONFIGS[name], strategy) for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
