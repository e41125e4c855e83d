"""`Tracker`: the only module that talks to MLflow's tracking.

Every call names its run: MLflow's active run is process-wide state that a study with trials side by side, or
`mlflow run` around it, would trip over. Parent run = study, child run = trial.
"""

import math
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import format_exc
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import requests
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from experiments.command_line.passwords import hide
from experiments.tracking import tracking_uri
from experiments.tracking.delivery import NotDelivered
from experiments.tracking.fenced_requests import fence_requests
from experiments.tracking.operations import Operation, new_key, now, trial_key
from experiments.tracking.outboxes import Outboxes
from experiments.tracking.recorder import Recorder
from experiments.tracking.run_description import common_tags, run_contents, study_note
from experiments.tracking.run_reading import RunReading
from experiments.tracking.system_metrics import SystemMetrics
from experiments.tracking.transport import Direct, ThroughOutbox, Transport, answers
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


class Tracker(RunReading):
    """Writes a study and its trials to MLflow. One per driver; with a workspace, for one `with` block.

    Attributes:
        uri: of the tracking store; SQLite paths are absolute.

    Args:
        uri: of the tracking store; None: MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db`.
        experiment: name of the MLflow experiment for new studies, created when missing; None:
            MLFLOW_EXPERIMENT_NAME, else `segmentation`.
        workspace: what is written is kept there first, and told by a thread, so that nothing waits for a server and
            nothing is lost where it is away; None: it is told at once.
        name: who writes, for the workspace.

    Raises:
        UserError: if the store does not answer within about five seconds, unless it once did so for this workspace; or
            if it refuses.
    """

    def __init__(
        self, uri: str | None, experiment: str | None, workspace: str | Path | None = None, name: str = "run"
    ) -> None:
        tracking_uri.quieten_mlflow()
        fence_requests()
        self.uri = tracking_uri.resolve(uri)
        online = True
        try:
            tracking_uri.probe(self.uri)
        except UserError:
            if workspace is None or not Outboxes.of(Path(workspace), self.uri).reached:
                raise
            online = False
        self._monitors: dict[str, SystemMetrics] = {}
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
        super().__init__(Recorder(self.uri))
        try:
            if online:
                self._recorder.find_experiment(self._experiment)
        except MlflowException as error:
            reason = tracking_uri.without_secrets(str(error).splitlines()[0], self.uri)
            raise UserError(
                f"the MLflow store {tracking_uri.displayed(self.uri)} must be usable, got: {reason}; "
                "check its version and your rights."
            ) from None
        self._transport: Transport
        if workspace is None:
            self._transport = Direct(self._recorder)
        else:
            self._transport = ThroughOutbox(self._recorder, self.uri, Path(workspace), name, online=online)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for monitor in self._monitors.values():  # of runs that nobody ended
            monitor.stop()
        self._transport.finish()
        if error is not None and (left := self.undelivered()):
            print(left, file=sys.stderr)

    def undelivered(self) -> str:
        """What the store was not told yet, in one line with the remedy; empty if nothing."""
        return self._transport.undelivered()

    def delivered(self, run_id: str) -> str:
        """MLflow's own id of a run, once the store was told everything.

        Raises:
            NotDelivered: if it does not answer.
        """
        return self._transport.delivered(run_id)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Where the block fails because the store does not answer, that is what it raises.

        Raises:
            NotDelivered: then.
        """
        try:
            yield
        except (MlflowException, requests.RequestException) as error:
            if answers(self.uri):
                raise
            raise NotDelivered(
                f"MLflow must answer for what is left to do, and {tracking_uri.displayed(self.uri)} does not; when it "
                "does, the same command again does the rest"
            ) from error

    def start_study(
        self,
        study: str,
        parameters: Mapping[str, Any],
        manifest: Manifest,
        run_id: str | None = None,
        adopt: str | None = None,
        key: str | None = None,
    ) -> str:
        """Starts the parent run of a study, or goes on with it.

        Args:
            study: the study's name, which becomes the run's.
            parameters: the options of the study; those that the run already has are left as they are.
            manifest: of the dataset that the study trains on.
            run_id: the parent run of a study that goes on; its status becomes RUNNING again.
            adopt: the run that `mlflow run` created for this process. It becomes the parent of a new study; when
                another run goes on, it is filed under that one.
            key: of the parent run of a study that has none yet, as far as is known: it may have been made with it.

        Returns:
            The id of the parent run.

        Raises:
            UserError: if the store has no such run.
        """
        tags = common_tags(manifest) | {"study": study, MLFLOW_RUN_NOTE: study_note(study, parameters, manifest)}
        known = self._start(study, tags, parameters, manifest, run_id or (None if key else adopt), key)
        if adopt and known != adopt:
            self.file_under(adopt, study, known)
        return known

    def file_under(self, adopted: str, study: str, parent: str) -> None:
        """Files a run that `mlflow run` created under the study that it went on with."""
        self._tell(Operation(run=adopted, do="batch", what={"tags": {"continues": study}, "parent": parent}))

    def start_run(self, name: str, parameters: Mapping[str, Any], manifest: Manifest, adopt: str | None = None) -> str:
        """Starts a run that is part of no study, or adopts the one that `mlflow run` created; returns its id.

        Args:
            name: of the run, for people.
            parameters: those that the run already has are left as they are.
            manifest: of the dataset that the run works on.
            adopt: the run that `mlflow run` created for this process.
        """
        return self._start(name, common_tags(manifest), parameters, manifest, adopt)

    def start_trial(self, parent: str, study: str, trial: int, config: TrainConfig, manifest: Manifest) -> str:
        """Starts the child run of one trial, in its parent's experiment, and returns its id."""
        run_id = self._transport.create(_trial(parent, study, trial, config, manifest), training=True)
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
        self._transport.take_over()
        creation = _trial(parent, study, trial, config, manifest, again=True)
        known = run_id or self._transport.create(creation, training=True)
        if known == creation.run:  # who started it may have died before MLflow was told
            self._tell(creation)
        self.watch_system(known)
        logged = self._transport.ask(known, lambda: self._last_epoch(known), 0, training=True)
        self._tell(
            Operation(run=known, do="status", what={"status": "RUNNING"}), _batch(known, tags={"state": "running"})
        )
        return known, max(logged, self._transport.last_epoch(known))

    def _last_epoch(self, run: str) -> int:
        run_id = self._recorder.existing(run).info.run_id
        return max((metric.step for metric in self._client.get_metric_history(run_id, "val_dice")), default=0)

    def watch_system(self, run_id: str) -> None:
        """Logs the load of this machine (CPU, memory, GPU) to a run until it ends."""
        self._monitors[run_id] = SystemMetrics(lambda metrics, step: self.log_metrics(run_id, metrics, step))

    def log_epoch(self, run_id: str, report: EpochReport) -> None:
        """Logs one epoch's measurements with the epoch as step."""
        names = ("train_loss", "val_loss", "val_dice", "images_per_second")
        metrics = _finite({name: getattr(report, name) for name in names}, report.epoch)
        self._tell(_batch(run_id, metrics=metrics, epoch=report.epoch))

    def log_image(self, run_id: str, path: Path, key: str, step: int) -> None:
        """Logs a picture file as one step of the series `key`, which MLflow's page shows with a slider."""
        name = f"{key}+step+{step}+timestamp+{now()}+{uuid.uuid4()}.png"  # as MLflow's page reads it
        with TemporaryDirectory() as folder:
            shutil.copyfile(path, Path(folder) / name)
            self._tell(Operation(run=run_id, do="image", what={"name": name}, files=Path(folder)))

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Logs numbers; NaN and infinite ones are left out: MLflow stores infinity as a number and sorts it first."""
        if finite := _finite(metrics, step):
            self._tell(_batch(run_id, metrics=finite))

    def log_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Sets tags; a tag that is there already is replaced."""
        self._tell(_batch(run_id, tags={name: str(value) for name, value in tags.items()}))

    def extend_note(self, run_id: str, markdown: str) -> None:
        """Adds to the description that the run got when it started or went on; MLflow's page shows it."""
        self._tell(Operation(run=run_id, do="note", what={"markdown": markdown}))

    def log_folder(self, run_id: str, folder: Path, path: str = "") -> None:
        """Uploads a folder's files, with its subfolders, below `path` of the run's artifacts."""
        self._tell(Operation(run=run_id, do="files", what={"path": path}, files=folder))

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Uploads a text as the artifact `path`."""
        with TemporaryDirectory() as folder:
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_text(text, encoding="utf-8")
            self.log_folder(run_id, Path(folder))

    def log_figure(self, run_id: str, figure: "Figure", path: str) -> None:
        """Uploads a Matplotlib figure as the artifact `path`; its suffix decides the format."""
        with TemporaryDirectory() as folder:
            figure.savefig(Path(folder) / path)
            self.log_folder(run_id, Path(folder))

    def end(self, run_id: str, state: State, reason: str = "", traceback: str = "") -> None:
        """Ends a run; the one place that turns a state into MLflow's status.

        Args:
            run_id: of a trial or of a study.
            state: `finished` → FINISHED; `pruned` → KILLED, tagged `pruned`; `failed` and `cancelled` → FAILED;
                `waiting` → SCHEDULED: the same command will go on with it.
            reason: one line, becomes the tag `reason`.
            traceback: becomes the artifact `traceback.txt`.
        """
        reason, traceback = hide(reason), hide(traceback)
        status = {"status": _STATUS[state], "end": None if state == "waiting" else now()}  # what waits has no end yet
        if monitor := self._monitors.pop(run_id, None):
            monitor.stop()
        tags = {"state": state} | ({"pruned": "true"} if state == "pruned" else {})
        self.log_tags(run_id, tags | ({"reason": reason} if reason else {}))
        if traceback:
            self.log_text(run_id, traceback, "traceback.txt")
        self._tell(Operation(run=run_id, do="status", what=status))

    def try_out(self) -> None:
        """Writes a run with a file, reads both back, and deletes the run.

        Raises:
            UserError: if the store refuses any of it.
        """
        try:
            what = {"name": "doctor", "tags": {"doctor": "yes"}, "start": now(), "params": {}}
            creation = Operation(run=new_key(), do="create", what=what | {"experiment": self._experiment})
            run_id = self._transport.create(creation, training=False)
            try:
                self.log_metrics(run_id, {"written": 1})
                self.log_text(run_id, "written", "doctor.txt")
                with TemporaryDirectory() as folder:
                    written = self.download(run_id, "doctor.txt", Path(folder)).read_text(encoding="utf-8")
                if written != "written" or self._recorder.existing(run_id).data.metrics != {"written": 1}:
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
        except NotDelivered:
            self.end(run_id, "waiting", "MLflow did not answer")
            raise
        except Exception as error:
            self.end(run_id, "failed", f"{type(error).__name__}: {error}", format_exc())
            raise
        self.end(run_id, "finished")

    def where_to_browse(self, run_id: str) -> str:
        """What to type or open to see a run: a command for a database, an address for a server."""
        if self.uri.startswith(("http://", "https://")):
            address = tracking_uri.displayed(self.uri).rstrip("/")
            if self.undelivered():
                return address
            experiment = self._recorder.experiment_of(run_id)
            return f"{address}/#/experiments/{experiment}/runs/{self._recorder.run_id(run_id)}"
        return f"mlflow ui --backend-store-uri {tracking_uri.displayed(self.uri)}"

    def _start(
        self,
        name: str,
        tags: Mapping[str, str],
        parameters: Mapping[str, Any],
        manifest: Manifest,
        known: str | None,
        key: str | None = None,
    ) -> str:
        """Creates a run, or goes on with one that is known; returns its id."""
        what = run_contents(name, tags, parameters, manifest)
        if known is None:
            what |= {"experiment": self._experiment}
            creation = Operation(run=key or new_key(), do="create", what=what, again=key is not None)
            return self._transport.create(creation, training=False)
        self._transport.ask(known, lambda: bool(self._recorder.existing(known)), True, training=False)
        self._tell(Operation(run=known, do="start", what=what | {"tags": tags}))
        return known

    def _tell(self, *operations: Operation) -> None:
        self._transport.tell(*operations)


def _finite(metrics: Mapping[str, float], step: int) -> list[list[Any]]:
    measured = now()
    return [[name, float(value), measured, step] for name, value in metrics.items() if math.isfinite(value)]


def _batch(run_id: str, **what: Any) -> Operation:
    return Operation(run=run_id, do="batch", what=what)


def _trial(
    parent: str, study: str, trial: int, config: TrainConfig, manifest: Manifest, *, again: bool = False
) -> Operation:
    """The creation of a trial's run."""
    tags = common_tags(manifest) | {"study": study, "trial": str(trial)}
    what = run_contents(f"{trial:04d} {config.loss} f{config.filters}", tags, config.as_dict(), manifest)
    return Operation(run=trial_key(parent, trial), do="create", what=what | {"parent": parent}, again=again)
