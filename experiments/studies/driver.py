"""The driver: runs a study, from where it stopped to its total of trials. Imports neither TensorFlow nor MLflow."""

import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line.interrupts import Interrupted, Interrupts
from experiments.command_line.progress import Progress
from experiments.executors.base import Executor
from experiments.storage.leases import Lease
from experiments.storage.study_identity import StudyIdentity
from experiments.storage.study_store import StudyStore, open_study
from experiments.studies.search import SearchSpace
from experiments.studies.settlement import Limits
from experiments.studies.study_loop import StudyLoop
from experiments.studies.study_result import StudyResult, checkpoint_folder, trial_folder
from experiments.studies.trial_queue import TrialQueue
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker


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
    limits: Limits | None = None,
    adopt: str | None = None,
    configs: Sequence[TrainConfig] | None = None,
    lease: Lease | None = None,
) -> StudyResult:
    """Runs a study until it has `trials` finished ones (pruned ones included), or goes on with it.

    Where others share it (on PostgreSQL), it returns when the trials of all of them are over.

    Trials that an interrupt or the death of a driver stopped go on from their last checkpoints. Trials that fail do not
    count; the next call asks for as many as are still missing, a grid for the same arms. The study's MLflow run is left
    open after success, for what else belongs to it; in every other case it is ended.

    Args:
        study: the study's name.
        space: what to try.
        trials: the total, over all calls.
        manifest: the dataset.
        workspace: trials leave their files in `workspace/studies/<study>/trial_<number>_<run>`.
        storage: URL of Optuna's storage.
        executor, tracker, progress: where trials run, are recorded and are told.
        limits: of each trial; None: the defaults.
        adopt: an MLflow run to use as the study's own (`mlflow run` made it).
        configs: what a grid trains, of its space, in this order; `trials` is their number. None: `space.grid(trials)`.
        lease: of this driver, on PostgreSQL; None: it has one while this runs.

    Raises:
        UserError: if the request does not fit the study, or trials fail with the same UserError and none otherwise.
        Interrupted: after Ctrl-C or SIGTERM, once everything is settled.
    """
    if trials < 1:
        raise UserError(f"trials must be at least 1, got {trials}.")
    identity = StudyIdentity(
        study=study, dataset_key=manifest.key, dataset_name=manifest.name, split=manifest.split, space=space
    )
    with Interrupts() as interrupts, open_study(storage, identity, lease) as store:
        parent_run = _start_study(store, identity, tracker, manifest, adopt)
        _remove_checkpoints(store, study, workspace)
        queue = TrialQueue(store, space, trials, configs, progress)
        _tell(store, queue, space, trials, study, progress)
        loop = StudyLoop(
            study=study,
            store=store,
            tracker=tracker,
            parent_run=parent_run,
            executor=executor,
            progress=progress,
            manifest=manifest,
            workspace=workspace,
            queue=queue,
            limits=limits or Limits(),
        )
        try:
            loop.run(interrupts)
        except UserError as error:
            if store.leaves_last():
                tracker.end(parent_run, "failed", str(error))
            raise
        except Exception as error:
            if store.leaves_last():
                tracker.end(parent_run, "failed", f"{type(error).__name__}: {error}", traceback.format_exc())
            raise
        finally:
            progress.close()
        if interrupts.requested:
            if store.leaves_last():
                tracker.end(parent_run, "cancelled", "interrupted")
                progress.say(f"interrupted: run the same command again and study '{study}' goes on where it stopped")
            else:
                progress.say(f"interrupted: other drivers go on with study '{study}'; the same command joins them")
            raise Interrupted
        return StudyResult(
            study=study, run_id=parent_run, workspace=workspace, rows=tuple(store.trials()), ran=loop.ran
        )


def _start_study(
    store: StudyStore, identity: StudyIdentity, tracker: "Tracker", manifest: Manifest, adopt: str | None
) -> str:
    """Starts the study's own MLflow run, goes on with it, or joins the drivers that have it open; returns its id."""
    with store.alone():
        known = store.parent_run()
        if known is not None and store.has_peers():
            if adopt and adopt != known:
                tracker.file_under(adopt, identity.study, known)
            return known
        key = store.run_key(adopts=adopt is not None) if known is None else None
        parameters = _parameters(identity.space)
        started = tracker.start_study(identity.study, parameters, manifest, run_id=known, adopt=adopt, key=key)
        store.set_parent_run(started)
        return started


def _remove_checkpoints(store: StudyStore, study: str, workspace: Path) -> None:
    """A driver that died between the two may have settled a trial and kept its checkpoints."""
    for row in store.trials():
        if row.run_id is not None and row.state in ("finished", "pruned", "failed"):
            folder = trial_folder(workspace, study, row.number, row.run_id)
            shutil.rmtree(checkpoint_folder(folder), ignore_errors=True)


def _parameters(space: SearchSpace) -> dict[str, object]:
    """What the study's own run shows as parameters: what cannot change when the study goes on."""
    lists = {name: ",".join(map(str, values)) for name, values in space.searched().items()}
    return space.as_dict() | lists | {"sampler": space.sampler, "objective": space.objective}


def _tell(
    store: StudyStore, queue: TrialQueue, space: SearchSpace, trials: int, study: str, progress: Progress
) -> None:
    """Says where the study stands."""
    over = [row for row in store.trials() if row.state in ("finished", "pruned")]
    best = max((row.val_dice for row in over if row.state == "finished" and row.val_dice is not None), default=None)
    trained = queue.trained(over)
    if trained >= trials:
        progress.say(f"study '{study}' has all its trials ({trained} of {trials}): nothing to train")
    elif trained:
        progress.say(f"study '{study}' goes on: {trained} of {trials} trials are finished")
    progress.study(trials, trained, space.base, best)
