"""What must hold of a study whatever died while it ran: Optuna and MLflow agree, and nothing was lost or done twice."""

from pathlib import Path

import mlflow
import optuna

from experiments.checks.verification import compare_records, compare_workspace
from experiments.storage.study_store import read_study
from experiments.tracking.recorded_runs import RunReader
from seg.config import TrainConfig

FINISHED = optuna.trial.TrialState.COMPLETE


def check_history(study: str, storage: str, tracking: str, workspace: Path, trials: int, kills: int) -> None:
    """Asserts it.

    Args:
        trials: that the study was asked for, none of which fails by itself.
        kills: processes that were killed; each may cost one epoch that is trained again.
    """
    database = optuna.storages.RDBStorage(storage)
    loaded = optuna.load_study(study_name=study, storage=database)
    asked = loaded.trials
    database.engine.dispose()
    client = mlflow.MlflowClient(tracking)
    stored, reader = read_study(storage, study), RunReader(tracking)
    recorded = reader.study(study, stored.run_id)
    assert [each.found for each in compare_records(stored, recorded, reader)] == []
    assert [each.found for each in compare_workspace(stored, recorded, reader, workspace)] == []
    assert recorded.parent is not None
    parent = client.get_run(recorded.parent.run_id)
    runs = client.search_runs([parent.info.experiment_id])

    assert {run.info.status for run in runs} <= {"FINISHED"}
    assert [trial.state for trial in asked if "config" in trial.user_attrs] == [FINISHED] * trials
    assert all(trial.state.is_finished() for trial in asked)
    children = {run.data.tags["trial"]: run for run in runs if run.info.run_id != parent.info.run_id}
    assert len(runs) == trials + 1  # no run that nobody knows
    configs = set()
    for trial in asked:
        if trial.state == FINISHED:
            config = TrainConfig(**trial.user_attrs["config"])
            configs.add(config)
            run = children[str(trial.number)]
            # A run that was created while MLflow did not answer is known by its key.
            assert trial.user_attrs["run_id"] in (run.info.run_id, run.data.tags["run_key"])
            assert list(trial.intermediate_values) == list(range(1, config.epochs + 1))
    assert len(configs) == trials  # no configuration ran twice
    trained = [
        line for path in workspace.glob("studies/*/trial_*/epochs.txt") for line in path.read_text().splitlines()
    ]
    assert len(trained) <= sum(config.epochs for config in configs) + kills
