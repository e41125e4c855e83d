"""What MLflow's tracking holds of one run. Part of tracking: `Tracker` reads as it writes, through one `Recorder`."""

from pathlib import Path

import mlflow
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from experiments.tracking.recorder import Recorder
from experiments.tracking.run_description import RunRecord
from seg.errors import UserError


class RunReading:
    """Reads runs, which are called by their ids or keys.

    Args:
        recorder: of their store.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    @property
    def _client(self) -> mlflow.MlflowClient:
        return self._recorder.client

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run.

        Raises:
            UserError: if the store has no such run.
        """
        return dict(self._recorder.existing(run_id).data.tags)

    def record(self, run_id: str) -> RunRecord:
        """What the store holds of a run.

        Raises:
            UserError: if the store has no such run.
        """
        run = self._recorder.existing(run_id)
        datasets = [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
        return RunRecord(
            run_id=run.info.run_id,
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
        parent = self._recorder.existing(study_run).info
        wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.run_id}' and attributes.status = 'FINISHED'"
        found = self._client.search_runs(
            [parent.experiment_id],
            f"{wanted} and metrics.best_val_dice >= 0",
            order_by=["metrics.best_val_dice DESC", "attributes.start_time ASC"],
            max_results=1,
        )
        return str(found[0].info.run_id) if found else None

    def download(self, run_id: str, path: str, folder: Path) -> Path:
        """Fetches one artifact of a run into a folder and returns its file.

        Raises:
            UserError: if the store has no such run, or the run no such artifact.
        """
        run = self._recorder.existing(run_id)
        parent = path.rpartition("/")[0] or None
        if path not in {file.path for file in self._client.list_artifacts(run.info.run_id, parent)}:
            raise UserError(f"MLflow run {run_id} must have the artifact {path}, got none; choose a run that trained.")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(self._client.download_artifacts(run.info.run_id, path, str(folder)))
