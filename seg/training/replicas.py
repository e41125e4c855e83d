"""The proof that replicas compute what one device computes: loss, gradient, statistics, scores and numbers of images.

Two processes `measure` the same small dataset, one with one device and one with many, because TensorFlow starts with
the devices that it keeps; `seg/training/replica_differences.py` compares what they found. The usual mistakes are looked
for by name, since what TensorFlow says of them (or does not say) helps nobody: a loss that returns one value per batch,
a global batch that the replicas do not divide, a last batch with too few images for them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from seg.config import LOSSES, TrainConfig
from seg.data.manifest import BINARY_CLASSES, Example, Manifest, SplitSummary
from seg.data.pipeline import evaluation_dataset, training_dataset
from seg.losses import Loss, get_loss, validation_loss
from seg.models import build_model
from seg.training.building import build_before_fit
from seg.training.devices import effective_batch_size
from seg.training.validation import Validation

CONFIG = TrainConfig(image_size=16, filters=2, depth=1, batch_size=10, augmentation="flip")


def write_probe(folder: Path, replicas: int, classes: int = 1) -> Manifest:
    """Writes the dataset of the proof: squares to find, and one image too many for whole batches in each split.

    Of several classes, the squares take turns.
    """
    folder.mkdir(parents=True)
    batch_size = effective_batch_size(CONFIG.batch_size, replicas)
    random = np.random.default_rng(0)
    splits = {}
    for split, examples in {"train": 2 * batch_size + 1, "val": batch_size + 1}.items():
        records = random.integers(20, 60, (examples, CONFIG.image_size, CONFIG.image_size, 4), dtype=np.uint8)
        records[..., 3] = 0
        for index, (top, left) in enumerate(random.integers(0, 12, (examples, 2))):
            side = index % 5  # every fifth image is empty
            records[index, top : top + side, left : left + side] += np.array(
                [150, 150, 150, 1 + index % classes], np.uint8
            )
        np.save(folder / f"{split}.npy", records)
        size = CONFIG.image_size
        rows = (
            Example(image_id=index, file_name=f"{index}.png", height=size, width=size, sha256="", mask="")
            for index in range(examples)
        )
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
        masks = records[..., 3].astype(bool)
        empty = int((~masks.any(axis=(1, 2))).sum())
        splits[split] = SplitSummary(examples=examples, empty=empty, foreground=float(masks.mean()), key=split)
    manifest = Manifest(
        folder=folder,
        key="replicas",
        name="replicas",
        image_size=CONFIG.image_size,
        split="official",
        settings={},
        categories=[],
        splits=splits,
        left_out=[],
        classes=BINARY_CLASSES if classes == 1 else tuple(f"class {label}" for label in range(1, classes + 1)),
    )
    manifest.save()
    return Manifest.load(folder)


def measure(manifest: Manifest, strategy: tf.distribute.Strategy, replicas: int) -> dict[str, Any]:
    """What this process computes on the dataset that `write_probe` wrote.

    Args:
        manifest: the dataset.
        strategy: the devices of this process.
        replicas: of the process with the larger number of them; both use its batch size.

    Returns:
        JSON-serialisable: `replicas`; `gpus`, how many TensorFlow finds; `faults`, a line each, and nothing is trained
        where batches are wrong; `losses`, by name, with what `replica_differences` compares.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)  # its rounding would hide what is looked for
    count = strategy.num_replicas_in_sync
    batch_size = effective_batch_size(CONFIG.batch_size, replicas)
    found: dict[str, Any] = {"replicas": count, "gpus": len(tf.config.list_physical_devices("GPU")), "losses": {}}
    found["faults"] = batch_faults(manifest, batch_size, count)
    if found["faults"]:
        return found
    for name in LOSSES:
        loss = get_loss(name)
        fault = _shape_fault(name, loss)
        model, quantities = step(CONFIG, loss, batch_size, manifest, strategy)
        found["losses"][name] = quantities
        if fault:
            found["faults"].append(fault)  # it gives no losses of single images to validate with
        else:
            score = Validation(model, validation_loss(name), manifest, "val", batch_size, strategy)()
            quantities |= {"val_loss": score.loss, "val_dice": score.dice, "images": score.images}
    return found


def step(
    config: TrainConfig, loss: Loss, batch_size: int, manifest: Manifest, strategy: tf.distribute.Strategy
) -> tuple[keras.Model, dict[str, Any]]:
    """One step of plain gradient descent with learning rate 1: the change of a weight is its gradient.

    Returns:
        the model after it, and `loss`, `gradient` and `statistics` (of normalisation) as numbers and lists of them.
    """
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = build_model(config, len(manifest.classes))
        before = [weight.numpy() for weight in model.trainable_variables]
        model.compile(optimizer=keras.optimizers.SGD(1.0), loss=loss, jit_compile=False)
        build_before_fit(model, config.image_size)
    batches = training_dataset(manifest, config, batch_size)
    history = model.fit(batches, steps_per_epoch=1, epochs=1, verbose=0, shuffle=False)
    gradient = [old - new.numpy() for old, new in zip(before, model.trainable_variables, strict=True)]
    statistics = [weight.numpy() for weight in model.non_trainable_variables if "moving" in weight.path]
    return model, {"loss": history.history["loss"][0], "gradient": _flat(gradient), "statistics": _flat(statistics)}


def batch_faults(manifest: Manifest, batch_size: int, replicas: int) -> list[str]:
    """What is wrong with the batches of an epoch of training and of a validation, for so many replicas."""
    if batch_size % replicas:
        return [
            f"a global batch must be a multiple of the number of replicas, got {batch_size} images for {replicas}; "
            "round it up with seg.training.devices.effective_batch_size"
        ]
    faults = []
    steps = manifest.splits["train"].examples // batch_size
    training = [len(images) for images, _ in training_dataset(manifest, CONFIG, batch_size).take(steps + 1)]
    evaluation = [(len(images), weights) for images, _, weights in evaluation_dataset(manifest, "val", batch_size)]
    for name, sizes in (("training", training), ("validation", [size for size, _ in evaluation])):
        odd = [size for size in sizes if size != batch_size]
        if odd:
            faults.append(
                f"every batch of {name} must have {batch_size} images, got one of {odd[0]} for {replicas} replica(s); "
                + ("drop it" if name == "training" else "fill it up with images of weight 0")
            )
    weighed = int(sum(float(tf.reduce_sum(weights)) for _, weights in evaluation))
    if weighed != manifest.splits["val"].examples:
        faults.append(
            f"validation must weigh each of {manifest.splits['val'].examples} images 1, got {weighed} in all; "
            "give weight 0 to what fills up the last batch, and to nothing else"
        )
    return faults


def _shape_fault(name: str, loss: Loss) -> str:
    shape = tuple(loss(tf.zeros((3, 4, 4, 1)), tf.zeros((3, 4, 4, 1))).shape)
    if shape == (3,):
        return ""
    return (
        f"loss '{name}' must return one value per image, shape (batch,), got shape {shape} for 3 images: a scalar "
        "makes loss and gradient N times too big on N replicas"
    )


def _flat(parts: Sequence[np.ndarray]) -> list[float]:
    flat: list[float] = np.concatenate([part.ravel() for part in parts]).tolist()
    return flat
