"""The optimizer of a training run: Adam or AdamW, its learning rate over time, clipping, and the average it keeps."""

from typing import Any

import keras
import tensorflow as tf

from seg.config import TrainConfig


def make_optimizer(config: TrainConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer that a configuration describes.

    Args:
        config: `optimizer`, `learning_rate`, `schedule`, `warmup_epochs`, `weight_decay`, `clip_norm`, `ema`, `epochs`.
        steps_per_epoch: batches per epoch; schedules count steps.
    """
    arguments: dict[str, Any] = {
        "learning_rate": _learning_rate(config, steps_per_epoch),
        "clip_norm": config.clip_norm,
    }
    if config.ema:
        arguments |= {"use_ema": True, "ema_momentum": config.ema}
    if config.optimizer == "adamw":
        optimizer = ClippingAdamW(weight_decay=config.weight_decay, **arguments)
        # Scales, shifts and biases are left alone: decay is for what multiplies features.
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    else:
        optimizer = ClippingAdam(**arguments)
    # Keras scales the loss by itself only where float16 is the global policy.
    return keras.optimizers.LossScaleOptimizer(optimizer) if config.precision == "mixed_float16" else optimizer


def _learning_rate(
    config: TrainConfig, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    warmup = config.warmup_epochs * steps_per_epoch
    if config.schedule == "cosine":
        # After the warm-up, half a cosine down to 0 (Loshchilov and Hutter, SGDR, 2017, https://arxiv.org/abs/1608.03983).
        return keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else config.learning_rate,
            decay_steps=config.epochs * steps_per_epoch - warmup,
            warmup_target=config.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    if warmup:
        return keras.optimizers.schedules.PolynomialDecay(0.0, warmup, config.learning_rate)
    return config.learning_rate


class _ClipsTheWholeGradient:
    """Shortens the gradient of the whole batch to a norm.

    Keras clips each replica's share before it adds the shares up: what comes out depends on the number of replicas.
    """

    def __init__(self, *, clip_norm: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._clip_norm = clip_norm

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        reduced = super()._all_reduce_sum_gradients(grads_and_vars)  # type: ignore[misc]
        if not self._clip_norm:
            return reduced
        gradients, variables = zip(*reduced, strict=True)
        clipped, _ = tf.clip_by_global_norm(gradients, self._clip_norm)
        return list(zip(clipped, variables, strict=True))


class _StepsInOneOperation:
    """Adam's step for a variable: Keras's own formula, without an array for each of its dozen operations.

    Where a model has millions of weights, writing and reading those takes longer than the formula.
    """

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        step = tf.cast(self.iterations.value + 1, variable.dtype)  # type: ignore[attr-defined]
        beta_1, beta_2, epsilon = (
            tf.constant(value, variable.dtype)
            for value in (self.beta_1, self.beta_2, self.epsilon)  # type: ignore[attr-defined]
        )
        index = self._get_variable_index(variable)  # type: ignore[attr-defined]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,  # type: ignore[attr-defined]
            v=self._velocities[index].value.handle,  # type: ignore[attr-defined]
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


class ClippingAdam(_ClipsTheWholeGradient, _StepsInOneOperation, keras.optimizers.Adam):
    pass


class ClippingAdamW(_ClipsTheWholeGradient, _StepsInOneOperation, keras.optimizers.AdamW):
    pass
