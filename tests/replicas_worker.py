"""Run as `python -m tests.replicas_worker DEVICES DATASET`: one training step and one validation per loss, as JSON.

Logical devices can be chosen once per process, hence a process per number of devices.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from seg.config import LOSSES, TrainConfig
from seg.data.manifest import Manifest
from seg.data.pipeline import training_dataset
from seg.losses import bce, get_loss, validation_loss
from seg.models import build_model
from seg.training.devices import effective_batch_size, make_strategy
from seg.training.evaluation import predict_split
from seg.training.fit import fit
from seg.training.optimizer import make_optimizer
from seg.training.replicas import CONFIG as PROOF
from seg.training.replicas import step, write_probe
from seg.training.validation import Validation
from tests.test_replicas import SEVERAL

CONFIG = replace(PROOF, epochs=2)
BATCH_ON_4 = 12  # what 10 becomes on four replicas


def scalar_bce(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The planted mistake: one value per batch instead of one per image."""
    return tf.reduce_mean(bce(masks, logits))


def clipped_step(config: TrainConfig, loss: str, manifest: Manifest, strategy: Any) -> dict[str, Any]:
    """The first moments of Adam after one step with a short `clip_norm`: a tenth of the gradient that arrived; and
    the average of the weights."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = build_model(config)
        model.compile(optimizer=make_optimizer(config, 1), loss=get_loss(loss), jit_compile=False)
    batches = training_dataset(manifest, config, BATCH_ON_4)
    model.fit(batches, steps_per_epoch=1, epochs=1, verbose=0, shuffle=False)
    kept = {"moments": model.optimizer._momentums, "average": model.optimizer._model_variables_moving_average}
    return {name: np.concatenate([part.numpy().ravel() for part in parts]).tolist() for name, parts in kept.items()}


def main(devices: str, dataset: str) -> None:
    manifest = Manifest.load(Path(dataset))
    strategy = make_strategy(devices)
    replicas = strategy.num_replicas_in_sync
    results: dict[str, Any] = {"replicas": replicas, "losses": {}}
    for name in LOSSES:
        model, found = step(CONFIG, get_loss(name), BATCH_ON_4, manifest, strategy)
        batch_size = effective_batch_size(10, replicas)
        score = Validation(model, validation_loss(name), manifest, "val", batch_size, strategy)()
        results["losses"][name] = found | {"val_loss": score.loss, "val_dice": score.dice, "images": score.images}
        if effective_batch_size(10, replicas) == 10:
            results["losses"][name]["at_10"] = step(CONFIG, get_loss(name), 10, manifest, strategy)[1]
    results["probabilities"] = [float(p.mean()) for p in predict_split(model, manifest, "val", batch_size, strategy)]
    with tempfile.TemporaryDirectory() as folder:
        several = write_probe(Path(folder) / "several", 4, classes=2)
        results["several"] = {}
        for name in SEVERAL:
            model, found = step(CONFIG, get_loss(name), BATCH_ON_4, several, strategy)
            score = Validation(model, validation_loss(name), several, "val", BATCH_ON_4, strategy)()
            results["several"][name] = found | {"val_loss": score.loss, "val_dice": score.dice}
    results["scalar"] = step(CONFIG, scalar_bce, BATCH_ON_4, manifest, strategy)[1]
    clipped = replace(CONFIG, clip_norm=0.01, ema=0.5, learning_rate=1.0)
    results["clipped"] = {loss: clipped_step(clipped, loss, manifest, strategy) for loss in ("bce", "batch_dice")}
    with tempfile.TemporaryDirectory() as folder:
        config = replace(CONFIG, batch_size=BATCH_ON_4)
        result = fit(config, manifest, strategy, Path(folder))
        results["fit"] = [[epoch.train_loss, epoch.val_loss, epoch.val_dice] for epoch in result.history]
        weights = keras.models.load_model(Path(folder) / result.model, compile=False).get_weights()
        recipe = replace(
            config, optimizer="adamw", schedule="cosine", warmup_epochs=1, clip_norm=1.0, ema=0.5, augmentation="square"
        )
        result = fit(recipe, manifest, strategy, Path(folder))
        results["recipe"] = [[epoch.train_loss, epoch.val_loss, epoch.val_dice] for epoch in result.history]
        results["fit_weights"] = [part.tobytes().hex() for part in weights]
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
