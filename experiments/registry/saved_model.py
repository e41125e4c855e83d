"""A registered model's files: the Keras model, its settings, the code that runs it, its signature and requirements."""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from seg.inference import MODEL, SETTINGS

_REQUIREMENTS = ("mlflow", "tensorflow", "keras", "numpy", "opencv-python-headless", "simplejpeg", "pycocotools")
_PROJECT = Path(__file__).parents[2]
# All that `pyfunc_model.py` needs of this project, and no training code; a test follows its imports.
_CODE = (
    "seg/__init__.py",
    "seg/errors.py",
    "seg/inference.py",
    "seg/openvino_graph.py",
    "seg/data/__init__.py",
    "seg/data/any_image.py",
    "seg/data/appearance.py",
    "seg/data/certificate.py",
    "seg/data/coco.py",
    "seg/data/coco_writer.py",
    "seg/data/images.py",
    "seg/data/jpeg.py",
    "seg/data/manifest.py",
    "seg/data/masks.py",
    "seg/data/outlines.py",
    "seg/data/segmentation.py",
    "seg/data/tiff.py",
    "seg/decision.py",
    "seg/serving_graph.py",
    "seg/symmetries.py",
)


def save_model(folder: Path, description: Model, model_file: Path, settings: Mapping[str, Any], example: bytes) -> Path:
    """Writes an MLflow model without loading the Keras model that it holds.

    Args:
        folder: empty; the model is made inside it.
        description: what MLflow knows of the model already: its ids.
        model_file: the `.keras` file.
        settings: what `Predictor.load` reads beside it: `threshold` (None of several classes), `tta` and
            `largest_component`, which also become the defaults of the parameters of these names, `training_images`, …
        example: an encoded image, the model's input example.

    Returns:
        The folder of the model.
    """
    for path in _CODE:
        target = folder / "code" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_PROJECT / path, target)
    artifact = folder / "model"
    artifact.mkdir()
    shutil.copyfile(model_file, artifact / MODEL)
    (artifact / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    saved = folder / "saved"
    mlflow.pyfunc.save_model(
        path=str(saved),
        mlflow_model=description,
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
        code_paths=[str(folder / "code" / "seg")],
        artifacts={"model": str(artifact)},
        signature=_signature(settings),
        input_example=pd.DataFrame({"image": [example]}),
        pip_requirements=[f"{package}=={installed_version(package)}" for package in _REQUIREMENTS],
    )
    return saved


def _signature(settings: Mapping[str, Any]) -> ModelSignature:
    """What goes in and comes out; see `SegmentationModel.predict`."""
    encoded = {"mask_png": DataType.binary, "segmentation": DataType.string, "probability_png": DataType.binary}
    threshold, tta = settings["threshold"], settings["tta"]
    measured = {
        "height": DataType.long,
        "width": DataType.long,
        "area": DataType.long,
        **({"areas": DataType.string} if threshold is None else {}),
        "confidence": DataType.double,
        "unlike": DataType.string,
    }
    # Optional: `output` decides which of the first three there is, and a broken image leaves the others empty too.
    outputs = [ColSpec(kind, name, required=False) for name, kind in (encoded | measured).items()]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema([*outputs, ColSpec(DataType.string, "error")]),
        params=ParamSchema(
            [
                *([] if threshold is None else [ParamSpec("threshold", DataType.double, threshold)]),
                ParamSpec("tta", DataType.string, tta),
                ParamSpec("largest_component", DataType.string, settings.get("largest_component", "no")),
                ParamSpec("output", DataType.string, "mask"),
            ]
        ),
    )
