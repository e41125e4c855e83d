"""What `Model.fit` would do before its first step, done in a way that cannot end the process."""

import keras


def build_before_fit(model: keras.Model, image_size: int) -> None:
    """Builds the loss and the optimizer of a compiled model; call it within the strategy's scope, before `fit`.

    Under a strategy, Keras takes a batch for that from an iterator of its own, and drops it at once. A thread of
    TensorFlow's that is still filling it then ends the process now and then, with a segmentation fault in
    `MultiDeviceIterator`. Keras would also trace the model once more, to see what the loss is given: 0.5 s.

    Args:
        model: its losses take masks of shape (batch, image_size, image_size, 1).
        image_size: in pixels.
    """
    model._compile_loss.build(keras.KerasTensor((None, image_size, image_size, 1)), model.output)
    model._symbolic_build()
    model._maybe_symbolic_build = lambda iterator=None, data_batch=None: None
