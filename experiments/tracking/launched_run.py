"""The run that `mlflow run` made before this process started: what it wrote there and must not stay."""

import mlflow
from mlflow.exceptions import MlflowException

from experiments.command_line.passwords import hide, without_login
from experiments.tracking import tracking_uri


def hide_logins(run_id: str, uri: str | None) -> None:
    """Takes user, password and token out of the addresses among the run's tags: those of the git repository."""
    tracking_uri.quieten_mlflow()
    client = mlflow.MlflowClient(tracking_uri.resolve(uri))
    for name, value in client.get_run(run_id).data.tags.items():
        if without_login(value) != value:
            client.set_tag(run_id, name, without_login(value))


def delete(run_id: str, uri: str | None) -> str:
    """Marks the run as failed and deleted, because a parameter, which MLflow never changes, holds a password.

    Returns:
        What became of it, for people.
    """
    tracking_uri.quieten_mlflow()
    client = mlflow.MlflowClient(tracking_uri.resolve(uri))
    try:
        client.set_terminated(run_id, "FAILED")  # a deleted run can no longer be ended, not by `mlflow run` either
        client.delete_run(run_id)
    except MlflowException as error:
        return f"`mlflow run` wrote it into run {run_id}, which could not be deleted ({hide(str(error))})"
    return (
        f"`mlflow run` wrote it into run {run_id}, which is deleted now: erase it with mlflow gc --run-ids {run_id}, "
        "and change the password"
    )
