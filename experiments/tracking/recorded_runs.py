"""Reads back what MLflow recorded of a study; `tracker.py` writes what is read here."""

from collections.abc import Mapping
from dataclasses import dataclass

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from experiments.tracking.operations import RUN_KEY
from experiments.tracking.recorder import Recorder
from seg.errors import UserError

_PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """A run as MLflow has it.

    Attributes:
        run_id: its id.
        key: what Optuna may know it by instead: the key that it was created with while MLflow did not answer.
        status: RUNNING, SCHEDULED, FINISHED, FAILED or KILLED.
        deleted: whether it lies in MLflow's bin.
        parent: the run of the study that it is a trial of; None for a study's own.
        trial: its trial's number; None if it is none.
        dataset_key: of the dataset that it trained on; empty where none is noted.
        params, metrics: as it has them; of a metric its last value.
    """

    run_id: str
    key: str
    status: str
    deleted: bool
    parent: str | None
    trial: int | None
    dataset_key: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def names(self) -> tuple[str, str]:
        """What Optuna may call it."""
        return self.run_id, self.key


@dataclass(frozen=True, kw_only=True)
class RecordedStudy:
    """A study as MLflow has it.

    Attributes:
        parent: its own run; None if it is not there.
        trials: the runs that are filed under it as trials, deleted ones too.
        others: the ids and keys of runs of other studies that have the same name.
    """

    parent: RecordedRun | None
    trials: tuple[RecordedRun, ...]
    others: frozenset[str]


class RunReader:
    """Reads runs.

    Args:
        uri: of a store that a `Tracker` has reached.
    """

    def __init__(self, uri: str) -> None:
        self._client = mlflow.MlflowClient(uri)
        self._recorder = Recorder(uri)

    def study(self, name: str, parent: str | None) -> RecordedStudy:
        """The runs of a study.

        Args:
            name: the study's.
            parent: the id of its own run; None if it never got one.
        """
        try:
            own = None if parent is None else self._client.get_run(self._recorder.run_id(parent))
        except UserError:
            own = None
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            own = None
        if own is None:
            return RecordedStudy(parent=None, trials=(), others=frozenset())
        found = [_recorded(run) for run in self._runs(own.info.experiment_id, name)]
        trials = tuple(run for run in found if run.trial is not None and run.parent == own.info.run_id)
        strangers = [run for run in found if run.trial is not None and run.parent != own.info.run_id]
        others = frozenset(name for run in strangers for name in run.names if name)
        return RecordedStudy(parent=_recorded(own), trials=trials, others=others)

    def curve(self, run_id: str) -> list[tuple[int, float]]:
        """Epoch and val_dice of each measurement that a run has, by epoch."""
        return sorted((metric.step, metric.value) for metric in self._client.get_metric_history(run_id, "val_dice"))

    def has_artifact(self, run_id: str, path: str) -> bool:
        """Whether a run has the artifact, which lies in its first level."""
        return path in {file.path for file in self._client.list_artifacts(run_id)}

    def _runs(self, experiment: str, study: str) -> list[Run]:
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [experiment], f"tags.study = '{study}'", ViewType.ALL, max_results=_PAGE, page_token=token
            )
            runs += page
            token = page.token
            if not token:
                return runs


def _recorded(run: Run) -> RecordedRun:
    tags = run.data.tags
    trial = tags.get("trial", "")
    return RecordedRun(
        run_id=run.info.run_id,
        key=tags.get(RUN_KEY, ""),
        status=run.info.status,
        deleted=run.info.lifecycle_stage != "active",
        parent=tags.get(MLFLOW_PARENT_RUN_ID),
        trial=int(trial) if trial.isdecimal() else None,
        dataset_key=tags.get("dataset_key", ""),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
    )
