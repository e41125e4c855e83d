"""`Recorder`: tells MLflow's tracking what an `Operation` says. Part of tracking."""

import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.multimedia import compress_image_size
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from experiments.storage.new_database import create_whole
from experiments.tracking import tracking_uri
from experiments.tracking.operations import RUN_KEY, Operation, is_key
from seg.errors import UserError

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the second: what cannot be an id, such as a path
# A tag that MLflow's page reads and its Python has no name for; without it, it opens on tools for language models.
_EXPERIMENT_KIND = "mlflow.experimentKind"


class Recorder:
    """Writes to one tracking store, which is first talked to when it must be.

    Args:
        uri: of the store.

    Attributes:
        ids: MLflow's id of each run that is known by a key.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._made: mlflow.MlflowClient | None = None
        self._making = threading.Lock()
        self._experiments: dict[str, str] = {}  # of a run, by its id
        self.ids: dict[str, str] = {}

    @property
    def client(self) -> mlflow.MlflowClient:
        """MLflow's own; on a server its first call creates the schema, before another process can race for it."""
        with self._making:
            if self._made is None:
                if database := tracking_uri.sqlite_path(self._uri):
                    create_whole(database, _create_tables)
                self._made = mlflow.MlflowClient(self._uri)
            return self._made

    def run_id(self, run: str) -> str:
        """MLflow's id of a run that is called by its id or key.

        Raises:
            UserError: if no run has the key.
        """
        if not is_key(run):
            return run
        if run not in self.ids:
            found = self._with_key(run)
            if found is None:
                raise UserError(
                    f"a run with the key {run} must be in {tracking_uri.displayed(self._uri)}, got none; "
                    "run sync with the workspace that made it, or choose another."
                )
            self.ids[run] = found
        return self.ids[run]

    def existing(self, run: str) -> Run:
        """A run that is there and not deleted.

        Raises:
            UserError: if it is not.
        """
        run_id = self.run_id(run)
        try:
            found = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            raise UserError(
                f"MLflow run '{run_id}' must be in {tracking_uri.displayed(self._uri)}, got none; "
                "set MLFLOW_TRACKING_URI to the store that has it, or choose another."
            ) from None
        if found.info.lifecycle_stage == "active":
            return found
        raise UserError(
            f"MLflow run {run_id} must not be deleted; restore it (mlflow runs restore --run-id {run_id}), "
            "or choose another."
        )

    def find_experiment(self, name: str) -> str | None:
        """The id of an experiment; None until a first run needs it: a run that is adopted has its own.

        Raises:
            UserError: if it was deleted.
        """
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return None
        if found.lifecycle_stage != "active":
            raise UserError(f"experiment must be an active one, got '{name}', which was deleted; choose another.")
        return str(found.experiment_id)

    def apply(self, operation: Operation) -> None:
        """Tells MLflow of it; what it was told before changes nothing.

        Raises:
            UserError, MlflowException, OSError, requests.RequestException: if it does not take it.
        """
        do: Mapping[str, Callable[[Operation], None]] = {
            "create": self._create,
            "start": self._start,
            "batch": self._batch,
            "note": self._extend_note,
            "status": self._set_status,
            "files": self._upload,
            "image": self._upload_image,
        }
        do[operation.do](operation)

    def _create(self, operation: Operation) -> None:
        """Makes a run: `name`, `tags`, `start` (ms), in its `parent`'s experiment or `experiment`; then describes it.

        With the answer to a first attempt lost, the run is there already: whoever may have made it is looked for.
        """
        what, key = operation.what, operation.run
        if key not in self.ids:
            made_before = self._made_before(operation) if operation.again else None
            self.ids[key] = made_before or self._make(operation)
        self._log_params(self.ids[key], what["params"])
        if what.get("dataset"):
            self._log_dataset(self.ids[key], what["dataset"])

    def _made_before(self, operation: Operation) -> str | None:
        parent, trial = operation.what.get("parent"), operation.what["tags"].get("trial")
        if parent is None:
            return self._with_key(operation.run)
        # Not by its key: a run from before there were keys is this trial's too.
        wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.run_id(parent)}' and tags.trial = '{trial}'"
        return self._search([self.experiment_of(parent)], wanted)

    def _make(self, operation: Operation) -> str:
        what = operation.what
        tags = dict(what["tags"]) | {RUN_KEY: operation.run}
        if (parent := what.get("parent")) is not None:
            tags[MLFLOW_PARENT_RUN_ID] = self.run_id(parent)
            experiment = self.experiment_of(parent)
        else:
            experiment = self._find_or_create_experiment(what["experiment"])
        with tracking_uri.one_attempt():
            made = self.client.create_run(experiment, what["start"], tags, what["name"])
        self._experiments[made.info.run_id] = experiment
        return str(made.info.run_id)

    def _start(self, operation: Operation) -> None:
        """Goes on with a run that is there: `name`, `tags`; and describes it, as far as nobody has."""
        run_id, what = self.run_id(operation.run), operation.what
        self._mark_experiment(self.experiment_of(run_id))
        self.client.update_run(run_id, status="RUNNING", name=what["name"])
        self._log_tags(run_id, what["tags"])
        # `mlflow run` logged its parameters as typed ("1e-3"); ours ("0.001") would be refused as a change.
        present = self.existing(run_id).data.params
        self._log_params(run_id, {name: value for name, value in what["params"].items() if name not in present})
        self._log_dataset(run_id, what["dataset"])

    def _batch(self, operation: Operation) -> None:
        """Logs `metrics` (name, value, ms, step), `params` and `tags`; `parent` files it under another run."""
        what = operation.what
        tags = dict(what.get("tags", {}))
        if parent := what.get("parent"):
            tags[MLFLOW_PARENT_RUN_ID] = self.run_id(parent)
        self.client.log_batch(
            self.run_id(operation.run),
            metrics=[Metric(*measured) for measured in what.get("metrics", ())],
            params=[Param(name, value) for name, value in what.get("params", {}).items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )

    def _extend_note(self, operation: Operation) -> None:
        """Adds `markdown` to the description, unless it ends with it."""
        run_id, added = self.run_id(operation.run), f"\n{operation.what['markdown']}"
        before = self.existing(run_id).data.tags.get(MLFLOW_RUN_NOTE, "")
        if not (operation.again and before.endswith(added)):
            self._log_tags(run_id, {MLFLOW_RUN_NOTE: before + added})

    def _set_status(self, operation: Operation) -> None:
        """Sets `status`; `end` (ms) where it is a terminal one."""
        run_id, status = self.run_id(operation.run), operation.what["status"]
        if operation.what.get("end") is None:
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, operation.what["end"])

    def _upload(self, operation: Operation) -> None:
        """Uploads the files below `path` of the artifacts."""
        assert operation.files is not None
        if not operation.files.is_dir():  # MLflow would upload nothing, and say nothing
            raise FileNotFoundError(f"{operation.files} must be there to be uploaded, and is gone")
        self.client.log_artifacts(self.run_id(operation.run), str(operation.files), operation.what["path"] or None)

    def _upload_image(self, operation: Operation) -> None:
        """Uploads a picture as MLflow's `log_image` would, under the `name` that it was given once and for all."""
        assert operation.files is not None
        run_id, name = self.run_id(operation.run), operation.what["name"]
        image = mlflow.Image(str(operation.files / name)).to_pil()
        compress_image_size(image).save(operation.files / f"{Path(name).stem}+compressed.webp")
        self.client.log_artifacts(run_id, str(operation.files), "images")
        self._log_tags(run_id, {MLFLOW_LOGGED_IMAGES: "True"})

    def experiment_of(self, run: str) -> str:
        """The id of the experiment that a run is in."""
        run_id = self.run_id(run)
        if run_id not in self._experiments:
            self._experiments[run_id] = str(self.existing(run_id).info.experiment_id)
        return self._experiments[run_id]

    def _with_key(self, key: str) -> str | None:
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return self._search(experiments, f"tags.{RUN_KEY} = '{key}'") if experiments else None

    def _search(self, experiments: list[str], wanted: str) -> str | None:
        found = self.client.search_runs(experiments, wanted, max_results=1, order_by=["attributes.start_time ASC"])
        return str(found[0].info.run_id) if found else None

    def _find_or_create_experiment(self, name: str) -> str:
        if found := self.find_experiment(name):
            return found
        # Artifacts lie beside their database, wherever the command was started.
        database = tracking_uri.sqlite_path(self._uri)
        folder = re.sub(r"[^\w.-]+", "_", name)
        location = None if database is None else (database.parent / "mlruns" / folder).as_uri()
        created = str(self.client.create_experiment(name, artifact_location=location))
        self._mark_experiment(created)
        return created

    def _mark_experiment(self, experiment_id: str) -> None:
        """Has MLflow's page open on training runs, unless somebody chose."""
        if _EXPERIMENT_KIND not in self.client.get_experiment(experiment_id).tags:
            self.client.set_experiment_tag(experiment_id, _EXPERIMENT_KIND, "custom_model_development")

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        if params:
            self.client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def _log_dataset(self, run_id: str, dataset: Mapping[str, Any]) -> None:
        tags = [InputTag(name, value) for name, value in dataset["tags"].items()]
        self.client.log_inputs(run_id, [DatasetInput(Dataset(**dataset["dataset"]), tags)])


def _create_tables(uri: str) -> None:
    mlflow.MlflowClient(uri).search_experiments(max_results=1)
