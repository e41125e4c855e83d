"""What the options of the optimizer mean, step by step."""

import math
from typing import Any

import keras
import numpy as np
import pytest

from seg.config import OPTIMIZERS, TrainConfig
from seg.training.optimizer import make_optimizer

STEPS = 10


def rates(**options: Any) -> list[float]:
    """The learning rate at each step."""
    config = TrainConfig(learning_rate=0.1, epochs=5, **options)
    rate = make_optimizer(config, STEPS)._learning_rate
    return [float(rate(step)) if callable(rate) else float(rate) for step in range(5 * STEPS + 1)]


def test_constant_is_constant() -> None:
    assert rates() == pytest.approx([0.1] * 51)


def test_cosine_falls_from_the_highest_to_0() -> None:
    expected = [0.05 * (1 + math.cos(math.pi * step / 50)) for step in range(51)]
    assert rates(schedule="cosine") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_rises_from_0_and_then_the_schedule_begins(schedule: str) -> None:
    found = rates(schedule=schedule, warmup_epochs=2)
    assert found[:21] == pytest.approx([0.1 * step / 20 for step in range(21)], abs=1e-6)
    expected = [0.05 * (1 + math.cos(math.pi * step / 30)) if schedule == "cosine" else 0.1 for step in range(31)]
    assert found[20:] == pytest.approx(expected, abs=1e-6)


def step(gradient: list[float], **options: Any) -> np.ndarray:
    """How far one step moves a weight that was 1."""
    optimizer = make_optimizer(TrainConfig(learning_rate=0.1, **options), STEPS)
    variable = keras.Variable(np.ones(len(gradient), np.float32), name="kernel")
    optimizer.apply([np.array(gradient, np.float32)], [variable])
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return np.stack([variable.numpy() - 1, optimizer._momentums[0].numpy()])


def test_adamw_takes_its_share_of_the_weight_away() -> None:
    plain, decayed = (step([1.0], optimizer=name, weight_decay=0.2)[0] for name in OPTIMIZERS)
    np.testing.assert_allclose(decayed - plain, [-0.1 * 0.2], rtol=1e-5)


@pytest.mark.parametrize("name", ["gamma", "beta", "bias"])
def test_scales_and_shifts_are_not_decayed(name: str) -> None:
    optimizer = make_optimizer(TrainConfig(optimizer="adamw", weight_decay=0.5), STEPS)
    variable = keras.Variable(np.ones(1, np.float32), name=name)
    optimizer.apply([np.zeros(1, np.float32)], [variable])
    np.testing.assert_array_equal(variable, [1.0])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_long_gradient_is_shortened(optimizer: str, precision: str) -> None:
    # The first moment after one step is a tenth of the gradient that arrived.
    scale = 2.0**15 if precision == "mixed_float16" else 1.0
    options = {"optimizer": optimizer, "precision": precision}
    long = [3.0 * scale, 4.0 * scale]
    np.testing.assert_allclose(step(long, clip_norm=0.0, **options)[1], [0.3, 0.4], rtol=1e-5)
    np.testing.assert_allclose(step(long, clip_norm=2.5, **options)[1], [0.15, 0.2], rtol=1e-5)
    np.testing.assert_allclose(step(long, clip_norm=50.0, **options)[1], [0.3, 0.4], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_keras_own(name: str) -> None:
    config = TrainConfig(optimizer=name, learning_rate=0.01, weight_decay=0.1)
    kind = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}[name]
    theirs = kind(0.01, weight_decay=0.1) if name == "adamw" else kind(0.01)
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=(3, 4)), random.normal(size=(20, 3, 4))
    found = []
    for optimizer in (make_optimizer(config, STEPS), theirs):
        variable = keras.Variable(start.astype(np.float32), name="kernel")
        for gradient in gradients:
            optimizer.apply([gradient.astype(np.float32)], [variable])
        kept = optimizer._momentums[0].numpy(), optimizer._velocities[0].numpy()
        found.append([variable.numpy(), *kept, optimizer.iterations.numpy()])
    for ours, keras_own in zip(*found, strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-5, atol=2e-6)  # 20 steps, weights of about 1
