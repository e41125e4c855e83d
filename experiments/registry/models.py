"""From what a person calls a model, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or the id of a run, to its files."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from experiments.registry.registry import ModelInfo, Registry
from experiments.tracking.tracker import Tracker
from seg.data.manifest import BINARY_CLASSES, Manifest
from seg.errors import UserError
from seg.inference import MODEL, SETTINGS


@dataclass(frozen=True, kw_only=True)
class FetchedModel:
    """A model's files on this machine.

    Attributes:
        file: the Keras model; `settings.json` lies beside it where a threshold was tuned.
        threshold: the tuned one; None for the model of a run, which has none yet, and for several classes.
        image_size: side of the images that it takes, in pixels.
        run_id: of the run that trained it; empty where the registry knows none.
        tta, largest_component: that the threshold was tuned with.
        classes: that it finds.
    """

    file: Path
    threshold: float | None
    image_size: int
    run_id: str
    tta: str = "none"
    largest_component: str = "no"
    classes: tuple[str, ...] = BINARY_CLASSES

    def check_classes(self, manifest: Manifest) -> None:
        """Raises UserError unless a dataset has the classes that the model finds; one class may have any name."""
        ours, theirs = self.classes, manifest.classes
        if ours != theirs and (len(ours), len(theirs)) != (1, 1):
            asked = "binary" if len(ours) == 1 else ",".join(ours)
            raise UserError(
                f"the dataset must have the classes of the model, {', '.join(ours)}, got {', '.join(theirs)}; "
                f"give classes={asked}."
            )


def fetch_model(model: str, tracker: Tracker, folder: Path) -> FetchedModel:
    """Downloads a registered model or the model of a run into `folder`.

    Raises:
        UserError: if there is no such model, or it is none of ours.
    """
    if model.startswith("models:/"):
        registry = Registry(tracker.uri)
        return fetch_version(registry.find(model), registry, folder)
    file = tracker.download(model, MODEL, folder)
    named = tracker.tags(model).get("classes")
    if named is not None and "," in named:
        tracker.download(model, SETTINGS, folder)  # it names the classes for whoever loads the model
    return FetchedModel(
        file=file,
        threshold=None,
        image_size=read_image_size(file),
        run_id=model,
        classes=BINARY_CLASSES if named is None else tuple(named.split(",")),
    )


def fetch_version(version: ModelInfo, registry: Registry, folder: Path) -> FetchedModel:
    """Downloads one version of a registered model into `folder`."""
    fetched = registry.download(version, folder)
    settings = json.loads((fetched / SETTINGS).read_text(encoding="utf-8"))
    file = fetched / MODEL
    return FetchedModel(
        file=file,
        threshold=None if settings["threshold"] is None else float(settings["threshold"]),
        tta=str(settings.get("tta", "none")),  # older versions have none, nor the next two
        largest_component=str(settings.get("largest_component", "no")),
        classes=tuple(settings.get("classes", BINARY_CLASSES)),
        image_size=read_image_size(file),
        run_id=version.run_id,
    )


def read_image_size(file: Path) -> int:
    """The side of the images that a `.keras` file takes, read without TensorFlow.

    Raises:
        UserError: if the file is no Keras model with one square image as its input.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        (shape,) = [layer["config"]["batch_shape"] for layer in layers if layer["class_name"] == "InputLayer"]
        _, height, width, channels = shape
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} must be a .keras file of a model with one image as its input: {error!r}.") from None
    if not (isinstance(height, int) and height > 0 and height == width and channels == 3):
        raise UserError(f"{file} must take square images with 3 channels, got {shape}; choose a model of this project.")
    return height
