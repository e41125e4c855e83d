"""`Tracker`: the only module that talks to MLflow's tracking.

Every call names its run: MLflow's active run is process-wide state that a study with trials side by side, or
`mlflow run` around it, would trip over. Parent run = study, child run = trial.
"""

import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import format_exc
from typing import TYPE_CHECKING, Any, Literal

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from experiments import tracking_uri
from experiments.fenced_requests import fence_requests
from experiments.new_database import create_whole
from experiments.passwords import hide
from experiments.run_description import RunRecord, as_text, common_tags, dataset_input, origin_tags, study_note
from experiments.system_metrics import SystemMetrics
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError
from seg.training.result import EpochReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

State = Literal["finished", "pruned", "failed", "cancelled", "waiting"]
DEFAULT_EXPERIMENT = "segmentation"
_STATUS: dict[State, str] = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "cancelled": "FAILED",
    "waiting": "SCHEDULED",
}
# A tag that MLflow's page reads and its Python has no name for; without it, it opens on tools for language models.
_EXPERIMENT_KIND = "mlflow.experimentKind"


class Tracker:
    """Writes a study and its trials to MLflow. One per driver.

    Attributes:
        uri: of the tracking store; SQLite paths are absolute.

    Args:
        uri: of the tracking store; None: MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db`.
        experiment: name of the MLflow experiment for new studies, created when missing; None:
            MLFLOW_EXPERIMENT_NAME, else `segmentation`.

    Raises:
        UserError: if the store does not answer within about five seconds, or refuses.
    """

    def __init__(self, uri: str | None, experiment: str | None) -> None:
        tracking_uri.quieten_mlflow()
        fence_requests()
        self.uri = tracking_uri.resolve(uri)
        tracking_uri.probe(self.uri)
        self._monitors: dict[str, SystemMetrics] = {}
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
        try:
            if database := tracking_uri.sqlite_path(self.uri):
                create_whole(database, _create_tables)
            # On a server, the first call creates the schema, before any other process can race for it.
            self._client = mlflow.MlflowClient(self.uri)
            self._find_experiment()
        except MlflowException as error:
            reason = tracking_uri.without_secrets(str(error).splitlines()[0], self.uri)
            raise UserError(
                f"the MLflow store {tracking_uri.displayed(self.uri)} must be usable, got: {reason}; "
                "check its version and your rights."
            ) from None

    def start_study(
        self,
        study: str,
        parameters: Mapping[str, Any],
        manifest: Manifest,
        run_id: str | None = None,
        adopt: str | None = None,
    ) -> str:
        """Starts the parent run of a study, or goes on with it.

        Args:
            study: the study's name, which becomes the run's.
            parameters: the options of the study; those that the run already has are left as they are.
            manifest: of the dataset that the study trains on.
            run_id: the parent run of a study that goes on; its status becomes RUNNING again.
            adopt: the run that `mlflow run` created for this process. It becomes the parent of a new study; when
                another run goes on, it is filed under that one.

        Returns:
            The id of the parent run.

        Raises:
            UserError: if the store has no such run.
        """
        tags = common_tags(manifest) | {"study": study, MLFLOW_RUN_NOTE: study_note(study, parameters, manifest)}
        known = self._create_or_adopt(study, tags, run_id or adopt)
        if run_id and adopt and run_id != adopt:
            self.log_tags(adopt, {MLFLOW_PARENT_RUN_ID: run_id, "continues": study})
        self._describe(known, parameters, manifest)
        return known

    def start_run(self, name: str, parameters: Mapping[str, Any], manifest: Manifest, adopt: str | None = None) -> str:
        """Starts a run that is part of no study, or adopts the one that `mlflow run` created; returns its id.

        Args:
            name: of the run, for people.
            parameters: those that the run already has are left as they are.
            manifest: of the dataset that the run works on.
            adopt: the run that `mlflow run` created for this process.
        """
        run_id = self._create_or_adopt(name, common_tags(manifest), adopt)
        self._describe(run_id, parameters, manifest)
        return run_id

    def start_trial(self, parent: str, study: str, trial: int, config: TrainConfig, manifest: Manifest) -> str:
        """Starts the child run of one trial, in its parent's experiment, and returns its id."""
        tags = common_tags(manifest) | {MLFLOW_PARENT_RUN_ID: parent, "study": study, "trial": str(trial)}
        name = f"{trial:04d} {config.loss} f{config.filters}"
        run_id = self._create_run(self._existing(parent).info.experiment_id, name, tags)
        self._log_params(run_id, config.as_dict())
        self._client.log_inputs(run_id, [dataset_input(manifest)])
        self.watch_system(run_id)
        return run_id

    def resume_trial(
        self, parent: str, study: str, trial: int, config: TrainConfig, manifest: Manifest, run_id: str | None
    ) -> tuple[str, int]:
        """Sets the run of a trial that goes on to RUNNING again; starts one if there is none.

        Args:
            run_id: the trial's; None where a driver died before it could store it: it is searched for.

        Returns:
            The run's id, and the last epoch that it has measurements of.

        Raises:
            UserError: if the run is gone.
        """
        run_id = run_id or self._find_trial(parent, trial)
        if run_id is None:
            return self.start_trial(parent, study, trial, config, manifest), 0
        self._existing(run_id)
        self._client.update_run(run_id, status="RUNNING")
        self.log_tags(run_id, {"state": "running"})
        self.watch_system(run_id)
        return run_id, max((metric.step for metric in self._client.get_metric_history(run_id, "val_dice")), default=0)

    def _find_trial(self, parent: str, trial: int) -> str | None:
        wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}' and tags.trial = '{trial}'"
        found = self._client.search_runs([self._existing(parent).info.experiment_id], wanted, max_results=1)
        return str(found[0].info.run_id) if found else None

    def watch_system(self, run_id: str) -> None:
        """Logs the load of this machine (CPU, memory, GPU) to a run until it ends."""
        self._monitors[run_id] = SystemMetrics(run_id, self.uri)

    def log_epoch(self, run_id: str, report: EpochReport) -> None:
        """Logs one epoch's measurements with the epoch as step."""
        names = ("train_loss", "val_loss", "val_dice", "images_per_second")
        self.log_metrics(run_id, {name: getattr(report, name) for name in names}, step=report.epoch)

    def log_image(self, run_id: str, path: Path, key: str, step: int) -> None:
        """Logs a picture file as one step of the series `key`, which MLflow's page shows with a slider."""
        self._client.log_image(run_id, mlflow.Image(str(path)), key=key, step=step)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Logs numbers; NaN and infinite ones are left out: MLflow stores infinity as a number and sorts it first."""
        now = int(time.time() * 1000)
        finite = [Metric(name, float(value), now, step) for name, value in metrics.items() if math.isfinite(value)]
        if finite:
            self._client.log_batch(run_id, metrics=finite)

    def log_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Sets tags; a tag that is there already is replaced."""
        self._client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run.

        Raises:
            UserError: if the store has no such run.
        """
        return dict(self._existing(run_id).data.tags)

    def record(self, run_id: str) -> RunRecord:
        """What the store holds of a run.

        Raises:
            UserError: if the store has no such run.
        """
        run = self._existing(run_id)
        datasets = [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
        return RunRecord(
            run_id=run_id,
            status=run.info.status,
            params=run.data.params,
            tags=run.data.tags,
            dataset=datasets[0].name if datasets else "",
            profile=(datasets[0].profile or "") if datasets else "",
        )

    def best_trial(self, study_run: str) -> str | None:
        """The finished trial of a study with the highest val_dice, the earliest of equals, by the id of its run.

        Args:
            study_run: the study's own.
        """
        wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{study_run}' and attributes.status = 'FINISHED'"
        found = self._client.search_runs(
            [self._existing(study_run).info.experiment_id],
            f"{wanted} and metrics.best_val_dice >= 0",
            order_by=["metrics.best_val_dice DESC", "attributes.start_time ASC"],
            max_results=1,
        )
        return str(found[0].info.run_id) if found else None

    def extend_note(self, run_id: str, markdown: str) -> None:
        """Adds to the description that the run got when it started or went on; MLflow's page shows it."""
        before = self._existing(run_id).data.tags.get(MLFLOW_RUN_NOTE, "")
        self.log_tags(run_id, {MLFLOW_RUN_NOTE: f"{before}\n{markdown}"})

    def log_folder(self, run_id: str, folder: Path, path: str = "") -> None:
        """Uploads a folder's files, with its subfolders, below `path` of the run's artifacts."""
        self._client.log_artifacts(run_id, str(folder), path or None)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Uploads a text as the artifact `path`."""
        self._client.log_text(run_id, text, path)

    def log_figure(self, run_id: str, figure: "Figure", path: str) -> None:
        """Uploads a Matplotlib figure as the artifact `path`; its suffix decides the format."""
        self._client.log_figure(run_id, figure, path)

    def end(self, run_id: str, state: State, reason: str = "", traceback: str = "") -> None:
        """Ends a run; the one place that turns a state into MLflow's status.

        Args:
            run_id: of a trial or of a study.
            state: `finished` → FINISHED; `pruned` → KILLED, tagged `pruned`; `failed` and `cancelled` → FAILED;
                `waiting` → SCHEDULED: the same command will go on with it.
            reason: one line, becomes the tag `reason`.
            traceback: becomes the artifact `traceback.txt`.
        """
        status, reason, traceback = _STATUS[state], hide(reason), hide(traceback)
        if monitor := self._monitors.pop(run_id, None):
            monitor.stop()
        tags = {"state": state} | ({"pruned": "true"} if state == "pruned" else {})
        self.log_tags(run_id, tags | ({"reason": reason} if reason else {}))
        if traceback:
            self.log_text(run_id, traceback, "traceback.txt")
        if state == "waiting":
            self._client.update_run(run_id, status=status)  # not terminated: it has no end yet
        else:
            self._client.set_terminated(run_id, status)

    def download(self, run_id: str, path: str, folder: Path) -> Path:
        """Fetches one artifact of a run into a folder and returns its file.

        Raises:
            UserError: if the store has no such run, or the run no such artifact.
        """
        self._existing(run_id)
        parent = path.rpartition("/")[0] or None
        if path not in {file.path for file in self._client.list_artifacts(run_id, parent)}:
            raise UserError(f"MLflow run {run_id} must have the artifact {path}, got none; choose a run that trained.")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(self._client.download_artifacts(run_id, path, str(folder)))

    def try_out(self) -> None:
        """Writes a run with a file, reads both back, and deletes the run.

        Raises:
            UserError: if the store refuses any of it.
        """
        try:
            run_id = self._create_run(self._find_or_create_experiment(), "doctor", {"doctor": "yes"})
            try:
                self.log_metrics(run_id, {"written": 1})
                self.log_text(run_id, "written", "doctor.txt")
                with TemporaryDirectory() as folder:
                    written = self.download(run_id, "doctor.txt", Path(folder)).read_text(encoding="utf-8")
                if written != "written" or self._existing(run_id).data.metrics != {"written": 1}:
                    raise UserError(
                        "MLflow's store must give back what was written, got something else; check its disk."
                    )
            finally:
                self._client.set_terminated(run_id)
                self._client.delete_run(run_id)
        except (MlflowException, OSError) as error:
            reason = tracking_uri.without_secrets(str(error).partition("\n")[0], self.uri)
            raise UserError(
                f"the MLflow store {tracking_uri.displayed(self.uri)} must take runs and files, got: {reason}; "
                "check your rights there, its version and its disk."
            ) from None

    @contextmanager
    def ending(self, run_id: str) -> Iterator[None]:
        """Ends the run when the block does: finished, or failed with the reason of the exception, which goes on."""
        try:
            yield
        except KeyboardInterrupt:
            self.end(run_id, "cancelled", "interrupted")
            raise
        except UserError as error:
            self.end(run_id, "failed", str(error))
            raise
        except Exception as error:
            self.end(run_id, "failed", f"{type(error).__name__}: {error}", format_exc())
            raise
        self.end(run_id, "finished")

    def where_to_browse(self, run_id: str) -> str:
        """What to type or open to see a run: a command for a database, an address for a server."""
        if self.uri.startswith(("http://", "https://")):
            experiment = self._existing(run_id).info.experiment_id
            return f"{tracking_uri.displayed(self.uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
        return f"mlflow ui --backend-store-uri {tracking_uri.displayed(self.uri)}"

    def _create_or_adopt(self, name: str, tags: Mapping[str, str], known: str | None) -> str:
        if known is None:
            return self._create_run(self._find_or_create_experiment(), name, tags)
        self._mark_experiment(self._existing(known).info.experiment_id)
        self._client.update_run(known, status="RUNNING", name=name)
        self.log_tags(known, tags)
        return known

    def _describe(self, run_id: str, parameters: Mapping[str, Any], manifest: Manifest) -> None:
        # `mlflow run` logged its parameters as typed ("1e-3"); ours ("0.001") would be refused as a change.
        present = self._existing(run_id).data.params
        self._log_params(run_id, {name: value for name, value in parameters.items() if name not in present})
        self._client.log_inputs(run_id, [dataset_input(manifest)])

    def _find_experiment(self) -> str | None:
        """The experiment's id; None until a first run needs it: a run that is adopted has its own."""
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            return None
        if found.lifecycle_stage != "active":
            raise UserError(
                f"experiment must be an active one, got '{self._experiment}', which was deleted; choose another."
            )
        return str(found.experiment_id)

    def _find_or_create_experiment(self) -> str:
        if found := self._find_experiment():
            return found
        # Artifacts lie beside their database, wherever the command was started.
        database = tracking_uri.sqlite_path(self.uri)
        folder = re.sub(r"[^\w.-]+", "_", self._experiment)
        location = None if database is None else (database.parent / "mlruns" / folder).as_uri()
        created = str(self._client.create_experiment(self._experiment, artifact_location=location))
        self._mark_experiment(created)
        return created

    def _mark_experiment(self, experiment_id: str) -> None:
        """Has MLflow's page open on training runs, unless somebody chose."""
        if _EXPERIMENT_KIND not in self._client.get_experiment(experiment_id).tags:
            self._client.set_experiment_tag(experiment_id, _EXPERIMENT_KIND, "custom_model_development")

    def _create_run(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
        return str(self._client.create_run(experiment_id, tags=origin_tags() | dict(tags), run_name=name).info.run_id)

    def _existing(self, run_id: str) -> Run:
        try:
            run = self._client.get_run(run_id)
            if run.info.lifecycle_stage == "active":
                return run
            raise UserError(
                f"MLflow run {run_id} must not be deleted; restore it (mlflow runs restore --run-id {run_id}), "
                "or choose another."
            )
        except MlflowException as error:
            # The second: what cannot be an id at all, such as a path.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise UserError(
                f"MLflow run '{run_id}' must be in {tracking_uri.displayed(self.uri)}, got none; "
                "set MLFLOW_TRACKING_URI to the store that has it, or choose another."
            ) from None

    def _log_params(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        self._client.log_batch(run_id, params=[Param(name, as_text(value)) for name, value in parameters.items()])


def _create_tables(uri: str) -> None:
    mlflow.MlflowClient(uri).search_experiments(max_results=1)
