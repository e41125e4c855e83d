"""What training reports while it runs and what it leaves behind. Imports no TensorFlow: the driver reads these too."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """The measurements of one epoch.

    Attributes:
        epoch: counted from 1.
        train_loss: mean per-image loss over the epoch's training images, in training mode.
        val_loss: mean per-image loss over every validation image.
        val_dice: hard Dice per image at threshold 0.5, mean over every validation image, in [0, 1].
        images_per_second: training images per second, validation not counted.
        seconds: duration of the epoch, validation included.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_dice: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a trained model costs.

    Attributes:
        parameters: number of weights.
        multiply_adds: multiplications, each with an addition, of the convolutions for one image of the training size.
        latency_ms: median milliseconds of one image alone, from its pixels at the training size to the logits, in
            the graph that serves the model, on the device that trained; on several, on the first.
        images_per_second: of training, validation not counted; median over the epochs after the first, which warms up.
    """

    parameters: int
    multiply_adds: int
    latency_ms: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The outcome of one training run.

    Attributes:
        stop_reason: `epochs` (budget used), `early_stopping`, or `pruned` (told to stop).
        best_epoch: the epoch of the saved weights, counted from 1.
        val_dice: of the best epoch.
        parameters: number of weights of the model.
        replicas: devices that trained together.
        batch_size: the global batch size in effect (rounded up to a multiple of the replicas).
        model: file name, inside the run's folder, of the best model (`.keras`, uncompiled).
        history: every epoch's report, in order.
    """

    stop_reason: str
    best_epoch: int
    val_dice: float
    parameters: int
    replicas: int
    batch_size: int
    model: str
    history: tuple[EpochReport, ...]
