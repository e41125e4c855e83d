"""The driver: runs a study, from where it stopped to its total of trials. Imports neither TensorFlow nor MLflow."""

import traceback
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.executors.base import Executor
from experiments.interrupts import Interrupted, Interrupts
from experiments.progress import Progress
from experiments.search import SearchSpace, fingerprint
from experiments.storage import StudyIdentity, StudyStore, open_study
from experiments.study_loop import StudyLoop
from experiments.study_result import StudyResult
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError

if TYPE_CHECKING:
    from experiments.tracking import Tracker

ABANDONED = "the driver of this trial died"


def run_study(
    *,
    study: str,
    space: SearchSpace,
    trials: int,
    manifest: Manifest,
    workspace: Path,
    storage: str,
    executor: Executor,
    tracker: "Tracker",
    progress: Progress,
    adopt: str | None = None,
) -> StudyResult:
    """Runs a study until it has `trials` finished ones (pruned ones included), or goes on with it.

    Trials that fail do not count; the next call asks for as many as are still missing, a grid for the same arms. The
    study's MLflow run is left open after success, for what else belongs to it; in every other case it is ended.

    Args:
        study: the study's name.
        space: what to try.
        trials: the total, over all calls.
        manifest: the dataset.
        workspace: trials leave their files in `workspace/studies/<study>/trial_<number>_<run>`.
        storage: URL of Optuna's storage.
        executor, tracker, progress: where trials run, are recorded and are told.
        adopt: an MLflow run to use as the study's own (`mlflow run` made it).

    Raises:
        UserError: if the request does not fit the study, or trials fail with the same UserError and none otherwise.
        Interrupted: after Ctrl-C or SIGTERM, once everything is settled.
    """
    if trials < 1:
        raise UserError(f"trials must be at least 1, got {trials}.")
    identity = StudyIdentity(
        study=study, dataset_key=manifest.key, dataset_name=manifest.name, split=manifest.split, space=space
    )
    with Interrupts() as interrupts, open_study(storage, identity) as store:
        parent_run = tracker.start_study(study, _parameters(space), manifest, run_id=store.parent_run(), adopt=adopt)
        store.set_parent_run(parent_run)
        _settle_abandoned(store, tracker, progress)
        arms = _begin(store, space, trials, study, progress)
        loop = StudyLoop(
            study=study,
            store=store,
            tracker=tracker,
            parent_run=parent_run,
            executor=executor,
            progress=progress,
            manifest=manifest,
            workspace=workspace,
            arms=arms,
        )
        try:
            loop.run(interrupts)
        except UserError as error:
            tracker.end(parent_run, "failed", str(error))
            raise
        except Exception as error:
            tracker.end(parent_run, "failed", f"{type(error).__name__}: {error}", traceback.format_exc())
            raise
        finally:
            progress.close()
        if interrupts.requested:
            tracker.end(parent_run, "cancelled", "interrupted")
            progress.say(f"interrupted: run the same command again and study '{study}' goes on where it stopped")
            raise Interrupted
        return StudyResult(
            study=study, run_id=parent_run, workspace=workspace, rows=tuple(store.trials()), ran=loop.ran
        )


def _settle_abandoned(store: StudyStore, tracker: "Tracker", progress: Progress) -> None:
    """Fails what a dead driver left running. This driver holds the study, so nobody runs these trials."""
    for row in store.trials():
        if row.state == "running":
            if row.run_id is not None:
                tracker.end(row.run_id, "failed", ABANDONED)
            store.fail(row.number, ABANDONED)
            progress.say(f"trial number {row.number} was left behind by a driver that died: settled as failed")


def _parameters(space: SearchSpace) -> dict[str, object]:
    """What the study's own run shows as parameters: what cannot change when the study goes on."""
    lists = {"loss": ",".join(space.losses), "filters": ",".join(map(str, space.filters))}
    return space.as_dict() | lists | {"sampler": space.sampler}


def _begin(
    store: StudyStore, space: SearchSpace, trials: int, study: str, progress: Progress
) -> Iterator[TrainConfig | None]:
    """Tells where the study stands and returns what it still has to train."""
    finished = [row for row in store.trials() if row.state in ("finished", "pruned")]
    missing = max(0, trials - len(finished))
    best = max((row.val_dice for row in finished if row.state == "finished" and row.val_dice is not None), default=None)
    if missing == 0:
        progress.say(f"study '{study}' has all its trials ({len(finished)} of {trials}): nothing to train")
    elif finished:
        progress.say(f"study '{study}' goes on: {len(finished)} of {trials} trials are finished")
    progress.study(trials, len(finished), space.base, best)
    if space.sampler == "tpe":
        return repeat(None, missing)
    done = {fingerprint(row.config) for row in finished if row.config is not None}
    return iter([config for config in space.grid(trials) if fingerprint(config) not in done][:missing])
