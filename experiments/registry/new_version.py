"""How a run's model becomes a version in MLflow's registry, also where an answer is lost on the way."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mlflow
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from experiments.registry.saved_model import save_model
from experiments.tracking import tracking_uri

if TYPE_CHECKING:
    from experiments.registry.registry import ModelInfo

Made = TypeVar("Made")
_ATTEMPTS = 3  # to create something, each after a look whether the one before did


def create_version(
    client: mlflow.MlflowClient,
    run_id: str,
    model_file: Path,
    name: str,
    tags: dict[str, str],
    settings: dict[str, Any],
    example: bytes,
    find: "Callable[[], ModelInfo | None]",
) -> str:
    """Uploads a run's model and makes it a version of `name`; returns its number.

    Args:
        client: of the registry.
        run_id, model_file, name, example: as `Registry.register` has them.
        tags: of the version.
        settings: of the model; see `seg.inference.Predictor.load`.
        find: the version of `name` that holds the run's model, where there is one by now.
    """
    logged = _log_model(client, run_id, model_file, settings, example)
    try:
        client.create_registered_model(name, description=_DESCRIPTION.replace("NAME", name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # The registry's client, not `mlflow.register_model`, which works on process-wide addresses.
    return _once(
        lambda: str(
            client.create_model_version(
                name, source=logged.artifact_location, run_id=run_id, tags=tags, model_id=logged.model_id
            ).version
        ),
        lambda: found.version if (found := find()) else None,
    )


def _log_model(
    client: mlflow.MlflowClient, run_id: str, model_file: Path, settings: dict[str, Any], example: bytes
) -> LoggedModel:
    """Uploads the model. `mlflow.pyfunc.log_model` would load it, and TensorFlow with it, to try its example."""
    run = client.get_run(run_id)
    wanted = f"name = 'model' AND source_run_id = '{run_id}'"

    def begun() -> LoggedModel | None:
        found = client.search_logged_models([run.info.experiment_id], wanted)
        # One that is ready is another version's, perhaps with other settings.
        return next((model for model in found if model.status == LoggedModelStatus.PENDING), None)

    logged = begun() or _once(
        lambda: client.create_logged_model(
            run.info.experiment_id, name="model", source_run_id=run_id, params=run.data.params, model_type="pyfunc"
        ),
        begun,
    )
    description = Model(
        run_id=run_id,
        model_id=logged.model_id,
        model_uuid=logged.model_id,
        artifact_path=logged.artifact_location,
    )
    with tempfile.TemporaryDirectory() as folder:
        saved = save_model(Path(folder), description, model_file, settings, example)
        client.log_model_artifacts(logged.model_id, str(saved))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return client.finalize_logged_model(logged.model_id, "READY")


def _once(create: Callable[[], Made], find: Callable[[], Made | None]) -> Made:
    """Creates something, and finds it where only the answer was lost."""
    for attempt in range(1, _ATTEMPTS):
        try:
            with tracking_uri.one_attempt():
                return create()
        except MlflowException:
            time.sleep(attempt)
            if (found := find()) is not None:
                return found
    with tracking_uri.one_attempt():
        return create()


_DESCRIPTION = """A segmentation model. Images of any size in, masks at their own size out:

```python
import mlflow
model = mlflow.pyfunc.load_model("models:/NAME@champion")
open("mask.png", "wb").write(model.predict({"image": [open("image.jpg", "rb").read()]}).mask_png[0])
```

The column `image` takes the bytes of JPEG, PNG, BMP and TIFF files, or base64 of them; one row comes back for each:
the mask (a PNG of 0 and 255), `height`, `width`, `area` in pixels, `confidence`, `unlike` (why the image is unlike the
training images) and `error` (why it cannot be read; the other rows are not touched). Where the version's tag `classes`
names several, the mask holds their numbers, 1, 2, …, and the column `areas` the pixels of each.

`params={...}`: `threshold` (default: tuned on validation images; not of several classes), `tta` (default: as
it was scored; `none`, `flips`: the mean of four mirror images, `square`: of these and their quarter turns),
`largest_component` (default: as it was scored; `yes`: only the largest connected component of each class stays),
`output` (`mask`; `rle` and `polygon`: COCO's as JSON text in `segmentation`; `probability`: a 16-bit PNG in
`probability_png`).
"""
