"""`Registry`: talks, with `new_version`, to MLflow's model registry. Loads no model and imports no TensorFlow."""

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from experiments.registry.new_version import create_version
from experiments.tracking import tracking_uri
from seg.data.appearance import Appearance
from seg.data.manifest import BINARY_CLASSES
from seg.errors import UserError

CHAMPION = "champion"
GATE = "dice_own_size"  # the score that decides between two models
_HISTORY = "champions"  # tag of a registered model
_LONGEST_TAG, _LONGEST_DESCRIPTION = 5000, 5000  # what MLflow's database holds
_LONGEST_NUMBER = 10  # digits of a version's
_OLDER = {"tta": "none", "largest_component": "no"}  # versions of older code have no such tags
_SETTLED_ERRORS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def scoring_tags(threshold: float | None, tta: str, largest_component: str) -> dict[str, str]:
    """How a version is scored and predicts, as its tags have it; several classes have no threshold."""
    return {
        "threshold": "none" if threshold is None else repr(threshold),
        "tta": tta,
        "largest_component": largest_component,
    }


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A version of a registered model.

    Attributes:
        name, version: as the registry has them.
        run_id: of the trial that trained it.
        test_key: which test images and masks its scores are of; only equal keys compare.
        dice: mean Dice per test image at the image's own size; None where a foreign version has none.
        classes: that it finds, with commas; `foreground` where it does not say so.
    """

    name: str
    version: str
    run_id: str
    test_key: str
    dice: float | None
    classes: str = BINARY_CLASSES[0]

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.version}"


class Registry:
    """The registry of a tracking store.

    Args:
        uri: of a store that a `Tracker` has reached; None means the same default.
    """

    def __init__(self, uri: str | None) -> None:
        tracking_uri.quieten_mlflow()
        self.uri = tracking_uri.resolve(uri)
        self._client = mlflow.MlflowClient(self.uri, self.uri)

    def champion(self, name: str) -> ModelInfo | None:
        """The version under the alias `champion`; None where there is none."""
        try:
            return _info(self._client.get_model_version_by_alias(name, CHAMPION))
        except MlflowException as error:
            # A missing model is the first code, a missing alias the second.
            if error.error_code in _SETTLED_ERRORS:
                return None
            raise

    def find(self, uri: str) -> ModelInfo:
        """The version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` names.

        Raises:
            UserError: if the registry has none.
        """
        name, at, alias = uri.removeprefix("models:/").partition("@")
        try:
            if at:
                return _info(self._client.get_model_version_by_alias(name, alias))
            name, _, number = name.partition("/")
            # A number that a database cannot hold is an error of another kind, and no version has one.
            return _info(self._client.get_model_version(name, number if len(number) < _LONGEST_NUMBER else "0"))
        except MlflowException as error:
            if error.error_code not in _SETTLED_ERRORS:
                raise
            raise UserError(
                f"model must be in the registry {tracking_uri.displayed(self.uri)}, got '{uri}'; register one with "
                "main, or set MLFLOW_TRACKING_URI to the store that has it."
            ) from None

    def versions(self, name: str) -> list[str]:
        """The numbers of a registered model's versions, newest first; none where there is no such model."""
        found = self._client.search_model_versions(f"name = '{name}'")
        return sorted((str(version.version) for version in found), key=int, reverse=True)

    def aliases(self, name: str) -> dict[str, str]:
        """The version that each alias of a registered model points to."""
        try:
            return {alias: str(version) for alias, version in self._client.get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if error.error_code in _SETTLED_ERRORS:
                return {}
            raise

    def example(self, model: ModelInfo) -> bytes | None:
        """The encoded image that a version has as its input example; None where it has none."""
        source = self._client.get_model_version_download_uri(model.name, model.version)
        with tempfile.TemporaryDirectory() as folder:
            try:
                fetched = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{source}/input_example.json", dst_path=folder, tracking_uri=self.uri
                )
                (row,) = json.loads(Path(fetched).read_text(encoding="utf-8"))["data"]
                return base64.b64decode(row[0])
            except (MlflowException, OSError, ValueError, KeyError, TypeError):
                return None  # a foreign version

    def download(self, model: ModelInfo, folder: Path) -> Path:
        """Fetches a version's `model.keras` and `settings.json` into a folder, and returns theirs."""
        fetched = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{self._client.get_model_version_download_uri(model.name, model.version)}/artifacts/model",
            dst_path=str(folder),
            tracking_uri=self.uri,
        )
        return Path(fetched)

    def newest(self, name: str) -> ModelInfo:
        """The version that was registered last.

        Raises:
            UserError: if there is none.
        """
        found = self._client.search_model_versions(f"name = '{name}'", max_results=1, order_by=["version_number DESC"])
        if not found:
            raise UserError(
                f"model_name must have a version in the registry {tracking_uri.displayed(self.uri)}, got '{name}'; "
                "register one with main."
            )
        return _info(found[0])

    def of_run(self, name: str, run_id: str) -> ModelInfo | None:
        """The version of `name` that holds a run's model; None where it was not registered."""
        found = self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        return _info(found[0]) if found else None

    def check_kept(self, name: str, run_id: str, options: Mapping[str, str]) -> ModelInfo | None:
        """The version of `name` that holds a run's model, whose options cannot be changed; None where there is none.

        Raises:
            UserError: if its `tta`, `largest_component` or `threshold` is another one than `options` has.
        """
        if (found := self.of_run(name, run_id)) is None:
            return None
        before = self.scored_with(found)
        for option, given in options.items():
            if (kept := before.get(option, given)) != given:
                raise UserError(
                    f"{option} must stay {kept}, with which version {found.version} of {name} was registered from this "
                    f"run, got {given}; use another model_name."
                )
        return found

    def scored_with(self, model: ModelInfo) -> dict[str, str]:
        """The version's `tta` and `largest_component`, and its `threshold` where it says so, as its tags have them."""
        tags = _OLDER | self.tags(model)
        return {option: tags[option] for option in (*_OLDER, "threshold") if option in tags}

    def past_champions(self, name: str) -> list[str]:
        """The versions that were champion, in order, the present one last; without those that rollbacks took back."""
        tags = self._client.get_registered_model(name).tags
        return tags.get(_HISTORY, "").split()

    def make_champion(self, model: ModelInfo, expected: ModelInfo | None, history: Sequence[str]) -> None:
        """Moves the alias `champion`.

        Args:
            model: which gets it.
            expected: which has it, as far as the caller knows. MLflow cannot compare and set: it is read again right
                before the move, which leaves a gap of milliseconds.
            history: what `past_champions` shall be.

        Raises:
            UserError: if another version has it by now.
        """
        present = self.champion(model.name)
        if (present and present.version) != (expected and expected.version):
            raise UserError(
                f"the champion of {model.name} must stay the same while it is decided, and it became version "
                f"{present.version if present else 'none'} meanwhile; run promote again."
            )
        self._client.set_registered_model_alias(model.name, CHAMPION, model.version)
        self._client.set_registered_model_tag(model.name, _HISTORY, " ".join(history))

    def note(self, model: ModelInfo, tags: Mapping[str, str]) -> None:
        """Sets tags of a version."""
        for tag, value in tags.items():
            self._client.set_model_version_tag(model.name, model.version, tag, value[:_LONGEST_TAG])

    def tags(self, model: ModelInfo) -> dict[str, str]:
        """The tags of a version, as they are now."""
        return dict(self._client.get_model_version(model.name, model.version).tags)

    def forget(self, model: ModelInfo, tag: str) -> None:
        """Removes a tag of a version."""
        self._client.delete_model_version_tag(model.name, model.version, tag)

    def describe(self, model: ModelInfo, markdown: str) -> None:
        """Sets the description of a version, which MLflow's page shows."""
        self._client.update_model_version(model.name, model.version, markdown[:_LONGEST_DESCRIPTION])

    def register(
        self,
        run_id: str,
        model_file: Path,
        name: str,
        *,
        scores: Mapping[str, float],
        threshold: float | None,
        dataset_key: str,
        test_key: str,
        example: bytes,
        training_images: Appearance,
        exif: str = "ignore",
        tta: str = "none",
        largest_component: str = "no",
        classes: Sequence[str] = BINARY_CLASSES,
    ) -> ModelInfo:
        """Makes a run's model a version of `name`; `experiments.registry.promotion` decides which version is champion.

        The same run again makes no second version: its tags are renewed.

        Args:
            run_id: of the trial that trained the model.
            model_file: the `.keras` file.
            name: of the registered model; see `check_name`.
            scores: on the test split, by name.
            threshold: tuned on validation; becomes the default of the model's parameter `threshold`. None of several
                classes, which have none.
            dataset_key: key of the dataset that the model was trained on.
            test_key: key of the split that the scores are of.
            example: an encoded image, the model's input example.
            training_images: what they look like; the model says when it is given something else.
            exif: whether they were turned as EXIF data asks, as `Predictor` has it.
            tta, largest_component: that the threshold and the scores are of; become the parameters' defaults.
            classes: that the model finds.

        Raises:
            UserError: as `check_kept`.
        """
        check_name(name)
        tags = {f"test_{score}": repr(value) for score, value in scores.items()} | {
            **scoring_tags(threshold, tta, largest_component),
            "dataset_key": dataset_key,
            "test_key": test_key,
            "classes": ",".join(classes)[:_LONGEST_TAG],
            "run": run_id,
        }
        found = self.check_kept(name, run_id, scoring_tags(threshold, tta, largest_component))
        if found:
            self.note(found, tags)
            number = found.version
        else:
            settings = {
                "threshold": threshold,
                "tta": tta,
                "largest_component": largest_component,
                "classes": list(classes),
                "exif": exif,
                "training_images": training_images.to_json(),
            }
            number = create_version(
                self._client, run_id, model_file, name, tags, settings, example, lambda: self.of_run(name, run_id)
            )
        return _info(self._client.get_model_version(name, number))


def check_name(name: str) -> None:
    """Raises UserError unless MLflow can register and load a model of this name."""
    if not name.strip() or any(sign in name for sign in "/:'\"%"):
        raise UserError(f"model_name must be without / : % and quotes, and not empty, got '{name}'; use seg-unet.")


def check_contender(registry: Registry, name: str, classes: Sequence[str]) -> None:
    """Raises UserError where the champion finds other classes: two such models cannot be compared; one has any name."""
    champion = registry.champion(name)
    if champion is None or champion.dice is None:
        return
    theirs = champion.classes.split(",")
    if theirs != list(classes) and (len(theirs), len(classes)) != (1, 1):
        raise UserError(
            f"model_name must be of a model with the classes {', '.join(classes)}, and the champion of {name} finds "
            f"{', '.join(theirs)}; use another model_name."
        )


def _info(version: ModelVersion) -> ModelInfo:
    dice = version.tags.get(f"test_{GATE}")
    return ModelInfo(
        name=version.name,
        version=str(version.version),
        run_id=version.run_id or "",
        test_key=version.tags.get("test_key", ""),
        dice=None if dice is None else float(dice),
        classes=version.tags.get("classes", BINARY_CLASSES[0]),
    )
