"""A study as the tutorials of Optuna, MLflow and Keras put it together, in one process.

    python -m benchmarks.tutorial_study DATASET TRIALS EPOCHS STORE

Each trial is a nested run of MLflow with its parameters, the metrics of each epoch and the trained model.
"""

import sys
from typing import Any

import keras
import mlflow
import numpy as np
import optuna

from benchmarks.parts.study import BATCH, LOSSES, WIDTHS, arms
from benchmarks.peers import keras_unet


def dice(masks: Any, logits: Any) -> Any:
    """Hard Dice per image, 1 where both masks are empty."""
    predicted = keras.ops.cast(logits >= 0, "float32")
    both = keras.ops.sum(masks * predicted, axis=(1, 2, 3))
    total = keras.ops.sum(masks, axis=(1, 2, 3)) + keras.ops.sum(predicted, axis=(1, 2, 3))
    return keras.ops.where(total > 0, 2 * both / keras.ops.maximum(total, 1.0), 1.0)


class LogEpochs(keras.callbacks.Callback):
    """Logs the metrics of each epoch to the active run."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        mlflow.log_metrics(logs or {}, step=epoch)


def main(dataset: str, trials: int, epochs: int, store: str) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    mlflow.set_experiment("tutorial")
    records = {split: np.load(f"{dataset}/{split}.npy", allow_pickle=False) for split in ("train", "val")}
    images = {split: part[..., :3].astype(np.float32) for split, part in records.items()}
    masks = {split: (part[..., 3:] == 1).astype(np.float32) for split, part in records.items()}

    def objective(trial: optuna.Trial) -> float:
        loss = trial.suggest_categorical("loss", LOSSES)
        filters = trial.suggest_categorical("filters", WIDTHS)
        keras.utils.set_random_seed(0)
        with mlflow.start_run(nested=True, run_name=f"trial {trial.number}"):
            mlflow.log_params(trial.params)
            model = keras_unet.build(images["train"].shape[1], filters)
            compared = keras.losses.BinaryCrossentropy(from_logits=True) if loss == "bce" else keras_unet.dice_loss
            model.compile(optimizer="adam", loss=compared, metrics=[dice])
            history = model.fit(
                images["train"],
                masks["train"],
                batch_size=BATCH,
                epochs=epochs,
                validation_data=(images["val"], masks["val"]),
                callbacks=[LogEpochs()],
                verbose=0,
            )
            mlflow.keras.log_model(model, name="model")
            return float(max(history.history["val_dice"]))

    study = optuna.create_study(direction="maximize", storage=f"sqlite:///{store}/optuna.db")
    for loss, filters in arms(trials):
        study.enqueue_trial({"loss": loss, "filters": filters})
    with mlflow.start_run(run_name="study"):
        study.optimize(objective, n_trials=trials)
        mlflow.log_metric("best_val_dice", study.best_value)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
