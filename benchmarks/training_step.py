"""How fast a step of training is: precisions, with Keras's batch normalisation and with the fused one.

    python -m benchmarks.training_step [--image_size 128] [--filters 16] [--depth 4] [--batch_size 10] [--rounds 5]

The U-Net of `build_training_model` is trained by `Model.fit`, as `seg.training.fit` calls it, on one batch that lies in
memory. The variants take turns within a round, so that all see the same machine.
"""

import argparse
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable

from seg.start import start_tensorflow

STEPS = 10  # of one measurement


def stepper(precision: str, fused: bool, arguments: argparse.Namespace) -> Callable[[], float]:
    """A function that trains for some steps and returns the images per second."""
    import numpy as np
    import tensorflow as tf

    from seg.config import TrainConfig
    from seg.losses import get_loss
    from seg.models import build_training_model
    from seg.training.fused import with_fused_normalization
    from seg.training.optimizer import make_optimizer

    size, batch_size = arguments.image_size, arguments.batch_size
    config = TrainConfig(
        image_size=size, filters=arguments.filters, depth=arguments.depth, precision=precision, loss="bce_dice"
    )
    model = build_training_model(config)
    if fused:
        model = with_fused_normalization(model)
    model.compile(optimizer=make_optimizer(config, STEPS), loss=get_loss(config.loss), jit_compile=False)
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (batch_size, size, size, 3)).astype(np.float32)
    masks = random.integers(0, 2, (batch_size, size, size, 1)).astype(np.float32)
    batches = tf.data.Dataset.from_tensors((images, masks)).repeat()

    def train() -> float:
        started = time.perf_counter()
        model.fit(batches, steps_per_epoch=STEPS, epochs=1, verbose=0)
        return STEPS * batch_size / (time.perf_counter() - started)

    train()  # traces
    return train


def main() -> None:
    """Measures every variant and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("image_size", 128), ("filters", 16), ("depth", 4), ("batch_size", 10), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    start_tensorflow()
    variants = list(itertools.product(("float32", "mixed_bfloat16"), (False, True)))
    steppers = {variant: stepper(*variant, arguments) for variant in variants}
    speeds: dict[tuple[str, bool], list[float]] = {variant: [] for variant in variants}
    for _ in range(arguments.rounds):
        for variant, train in steppers.items():
            speeds[variant].append(train())
    print(f"{platform.machine()}, {os.cpu_count()} cores; {vars(arguments)}; images per second")
    print("| precision | batch normalisation | median | lowest | highest |\n|---|---|---|---|---|")
    for (precision, fused), found in speeds.items():
        kind = "fused" if fused else "Keras's"
        print(f"| {precision} | {kind} | {statistics.median(found):.1f} | {min(found):.1f} | {max(found):.1f} |")


if __name__ == "__main__":
    main()
