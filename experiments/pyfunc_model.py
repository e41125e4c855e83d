"""The registered model's code: MLflow copies this file, with the `seg` files that it imports, into the model.

Imports nothing of `experiments`, and nothing heavy before a model is loaded.
"""

import base64
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel

COLUMN = "image"


class SegmentationModel(PythonModel):
    """Images of any size in, masks at each image's own size out."""

    def load_context(self, context: Any) -> None:
        """Loads the Keras model; called by MLflow once per process."""
        from seg.inference import Predictor

        self._predictor = Predictor.load(context.artifacts["model"])

    # Without these hints MLflow warns; from wider ones it makes a schema of its own beside the signature.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The masks of images, through `mlflow.pyfunc.load_model(...).predict` and over HTTP.

        Args:
            context: of MLflow; not used.
            model_input: a DataFrame, or what MLflow makes one of (`{"image": [...]}`, `[{"image": ...}, ...]`), with a
                column `image` whose cells are encoded files (bytes of a JPEG, PNG, …) or uint8 arrays
                (height, width, 3).
            params: `threshold`: probability from which on a pixel is foreground.

        Returns:
            One row for each image, in order: `mask_png` (bytes of an 8-bit grey PNG, 0 and 255, at the image's own
            size), `height`, `width`.
        """
        masks = self.masks([_image(cell) for cell in model_input[COLUMN]], (params or {}).get("threshold"))
        return pd.DataFrame(
            {
                "mask_png": [cv2.imencode(".png", mask * np.uint8(255))[1].tobytes() for mask in masks],
                "height": [mask.shape[0] for mask in masks],
                "width": [mask.shape[1] for mask in masks],
            },
            index=model_input.index,
        )

    def masks(self, images: Any, threshold: float | None = None) -> list[np.ndarray]:
        """The masks of images as arrays, through `mlflow.pyfunc.load_model(...).unwrap_python_model().masks`.

        Args:
            images: uint8 array (height, width, 3) or (images, height, width, 3), or a list of bytes and arrays.
            threshold: probability from which on a pixel is foreground; None: the one tuned on validation.

        Returns:
            For each image its mask (height, width) uint8, 0 and 1, at the image's own size.
        """
        if isinstance(images, np.ndarray) and images.ndim == 3:
            images = images[None]
        return [prediction.mask for prediction in self._predictor.predict_many(list(images), threshold)]


def _image(cell: Any) -> Any:
    """Undoes what MLflow does on the way: arrays become nested lists, and base64 stays text under the key `inputs`."""
    if isinstance(cell, list):
        return np.asarray(cell, np.uint8)
    if isinstance(cell, bytes | str):
        try:
            return base64.b64decode(cell, validate=True)
        except ValueError:  # a file's own bytes: every image format has signs in its header that base64 has not
            return cell
    return cell


mlflow.models.set_model(SegmentationModel())
