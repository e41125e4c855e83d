"""The registered model's code: MLflow copies this file, with the `seg` files that it imports, into the model.

Imports nothing of `experiments`, and nothing heavy before a model is loaded.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

from seg.data.any_image import decode_base64, is_encoded
from seg.errors import UserError

if TYPE_CHECKING:
    from seg.inference import Prediction, Predictor

COLUMN = "image"


def _png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def _mask(found: "Prediction") -> bytes:
    return _png(found.mask if len(found.classes) > 1 else found.mask * np.uint8(255))


def _segmentation(found: "Prediction", form: str) -> str:
    if len(found.classes) == 1:
        return json.dumps(found.segmentation(form))
    return json.dumps({name: each.segmentation(form) for name, each in found.by_class().items()})


# What the parameter `output` may be: the column that it fills, and how.
_OUTPUTS: dict[str, tuple[str, Callable[["Prediction"], bytes | str]]] = {
    "mask": ("mask_png", _mask),
    "rle": ("segmentation", lambda found: _segmentation(found, "rle")),
    "polygon": ("segmentation", lambda found: _segmentation(found, "polygon")),
    "probability": ("probability_png", lambda found: _png(np.rint(found.probability * 65535).astype(np.uint16))),
}


class SegmentationModel(PythonModel):
    """Images of any size in, masks at each image's own size out.

    Attributes:
        predictor: the `seg.inference.Predictor` inside, for masks and probabilities as arrays:
            `mlflow.pyfunc.load_model(...).unwrap_python_model().predictor`.
    """

    predictor: "Predictor"

    def load_context(self, context: Any) -> None:
        """Loads the Keras model; called by MLflow once per process."""
        from seg.inference import Predictor

        self.predictor = Predictor.load(context.artifacts["model"])

    # Without these hints MLflow warns; from wider ones it makes a schema of its own beside the signature.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The masks of images, through `mlflow.pyfunc.load_model(...).predict` and over HTTP.

        Args:
            context: of MLflow; not used.
            model_input: a DataFrame, or what MLflow makes one of (`{"image": [...]}`, `[{"image": ...}, ...]`), with a
                column `image` whose cells are encoded files (bytes of a JPEG, PNG, BMP or TIFF; base64 or a `data:`
                URL), or uint8 arrays (height, width[, channels]), also as nested lists. Never a path: whoever may
                ask for a mask may not read this machine's files.
            params: `threshold`: probability from which on a pixel is foreground (of one class). `tta`: `none`, `flips`
                for the mean of four mirror images, or `square` for that of eight symmetries. `largest_component`: `yes`
                or `no`. `output`: `mask`, `rle`, `polygon` or `probability`.

        Returns:
            One row for each image, in order, with the columns

            - `mask_png` (`output=mask`): bytes of an 8-bit grey PNG, 0 and 255; `probability_png`
              (`output=probability`): of a 16-bit one, 0 to 65535; or `segmentation` (`output=rle` and `polygon`): the
              JSON text of a COCO segmentation. All at the image's own size;
            - `height`, `width`, `area`: in pixels; `confidence`: in [0, 1];
            - of several classes, the mask's values are their numbers, 1, 2, …; `segmentation` is a JSON object of COCO
              segmentations by the class's name; `areas`, another column, one of pixels by the class's name, in the
              order of the numbers;
            - `unlike`: why the image is unlike the training images; empty text where it is alike;
            - `error`: why this image cannot be read, and the other cells are None; else empty text.

        Raises:
            MlflowException: if a parameter is none of these.
        """
        params = params or {}
        images = [_decode(cell) for cell in model_input[COLUMN]]
        readable = (image for image in images if not isinstance(image, UserError))
        try:
            column, encode = _output(params.get("output", "mask"))
            options = (params.get(name) for name in ("threshold", "tta", "largest_component"))
            found = self.predictor.predict_many(readable, *options)
        except UserError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        several = len(self.predictor.classes) > 1
        areas = ("areas",) if several else ()
        columns = (column, "height", "width", "area", *areas, "confidence", "unlike", "error")
        rows = [_row(image if isinstance(image, UserError) else next(found), encode, several) for image in images]
        # Of any other type, pandas would turn None into NaN, and whole numbers beside it into floating point.
        return pd.DataFrame(rows, columns=columns, index=model_input.index, dtype=object)


def _output(name: str) -> tuple[str, Callable[["Prediction"], bytes | str]]:
    if name not in _OUTPUTS:
        raise UserError(f"output must be one of {', '.join(_OUTPUTS)}, got '{name}'.")
    return _OUTPUTS[name]


def _row(
    found: "Prediction | UserError", encode: Callable[["Prediction"], bytes | str], several: bool
) -> tuple[Any, ...]:
    if isinstance(found, UserError):
        return (*(None,) * (7 if several else 6), str(found))
    height, width = found.mask.shape
    areas: tuple[str, ...] = ()
    if several:
        counts = np.bincount(found.mask.ravel(), minlength=1 + len(found.classes))[1:]
        areas = (json.dumps(dict(zip(found.classes, counts.tolist(), strict=True))),)
    return encode(found), height, width, found.area, *areas, found.confidence, "; ".join(found.unlike), ""


def _decode(cell: Any) -> bytes | np.ndarray | UserError:
    """Undoes what MLflow does on the way: arrays become nested lists, and base64 stays text under the key `inputs`."""
    try:
        if isinstance(cell, list):
            return _from_list(cell)
        if isinstance(cell, str) or (isinstance(cell, bytes) and not is_encoded(cell)):
            return decode_base64(cell)
    except UserError as error:
        return cell if isinstance(cell, bytes) else error  # of bytes, the decoder says what is wrong
    if isinstance(cell, (bytes, np.ndarray)):
        return cell
    if pd.api.types.is_scalar(cell) and pd.isna(cell):  # None, and what pandas makes of it beside texts
        return UserError("the image's value is missing; send the bytes of a file.")
    return UserError(f"an image must be the bytes of a file, or base64 of them, got {type(cell).__name__}; encode it.")


def _from_list(rows: list[Any]) -> np.ndarray:
    try:
        array = np.asarray(rows)
    except ValueError:
        raise UserError("an image as a list must have rows of equal length; send the bytes of a file.") from None
    if array.dtype.kind != "i":  # floating point in [0, 1], or what `to_rgb8` refuses
        return array
    if array.min() < 0 or array.max() > 255:
        raise UserError(
            f"whole numbers of an image must lie in 0 to 255, got {array.min()} to {array.max()}; "
            "send 16 bits as the bytes of a PNG."
        )
    return array.astype(np.uint8)


mlflow.models.set_model(SegmentationModel())
