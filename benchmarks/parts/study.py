"""What a study costs beside its trainings: short trials, beside a tutorial's script and the bare trainings.

`seg` is `python -m experiments.study`, a process per trial; `seg, slots=auto` the same, which measures first how many
trials at a time train most. The tutorial's script (`benchmarks.tutorial_study`) does all in one process. `bare
training` adds up what `seg.training.fit` takes for the same trials in one process that records nothing. A short
benchmark has neither that nor a trial's stages: one trial alone would be charged with the import that the first of
several waits for. All of them train on the same records, of part of the export where it is large: the trials are short.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.harness import Case, Contender, Target
from benchmarks.sample import sample
from benchmarks.setting import Setting
from seg.data.convert import convert

OURS, AUTO, TUTORIAL, BARE, LIMIT = "seg", "seg, slots=auto", "tutorial script", "bare training", "5 % of two minutes"
BATCH = 10
_IMAGES = 300
LOSSES, WIDTHS = ("bce", "dice"), (4, 6, 8, 10, 12, 16)


def arms(trials: int) -> list[tuple[str, int]]:
    """Loss and width of the first trials; one of them, or an even number, is a grid."""
    return [(loss, width) for width in WIDTHS for loss in LOSSES][:trials]


def trial_settings(setting: Setting, trials: int) -> dict[str, Any]:
    """What a study of so many short trials is."""
    export = sample(setting.export, setting.workspace, _IMAGES)
    return {"trials": trials, "epochs": 2, "image_size": 32 if setting.tiny else 64, "data": str(export)}


def cases(setting: Setting) -> list[Case]:
    trials = 12 if setting.full else 2 if setting.short else 1
    settings = trial_settings(setting, trials)
    contenders = [Contender(OURS, f"{__name__}:ours", settings), Contender(TUTORIAL, f"{__name__}:tutorial", settings)]
    if not setting.short:
        contenders.append(Contender(BARE, f"{__name__}:bare", settings))
    if setting.full:
        contenders.append(Contender(AUTO, f"{__name__}:ours", settings | {"slots": "auto"}))
    targets = tuple(
        Target(f"twice as fast as the tutorial's script: {name}", name, (TUTORIAL,), 2.0)
        for name in ((OURS, AUTO) if setting.full else (OURS,))
    )
    rounds = setting.rounds if setting.full else 1
    whole = Case("study", f"short trials, {trials} of them", "s", tuple(contenders), False, rounds, targets)
    if setting.short or setting.clock == "processor":
        return [whole]
    stages = (
        Contender(OURS, f"{__name__}:overhead", settings | {"trials": 2 if setting.full else 1}),
        Contender(LIMIT, f"{__name__}:limit"),
    )
    under = Target("under 5 % of the training time of two minutes", OURS, (LIMIT,), 1.0)
    return [whole, Case("study", "overhead of a trial", "s", stages, False, rounds, (under,))]


def _converted(settings: dict[str, Any]) -> str:
    """Workspace with the converted dataset, and nothing else, of the contender's own."""
    workspace = tempfile.mkdtemp(dir=settings["scratch"])
    convert(Path(settings["data"]), Path(workspace), image_size=settings["image_size"], on_bad="skip", progress=False)
    return workspace


def _options(settings: dict[str, Any], workspace: str, folder: str) -> list[str]:
    chosen = arms(settings["trials"])
    values = {
        "data": settings["data"],
        "on_bad": "skip",
        "workspace": workspace,
        "study": Path(folder).name,
        "storage": f"sqlite:///{folder}/optuna.db",
        "image_size": settings["image_size"],
        "batch_size": BATCH,
        "loss": ",".join(dict.fromkeys(loss for loss, _ in chosen)),
        "filters": ",".join(str(width) for width in dict.fromkeys(width for _, width in chosen)),
        "epochs": settings["epochs"],
        "slots": settings.get("slots", 1),
    }
    return [f"--{name}={value}" for name, value in values.items()]


def _timed(settings: dict[str, Any], command: Callable[[str], list[str]]) -> Callable[[], float]:
    """Seconds of a command that gets a folder of its own, with a store of MLflow."""

    def measure() -> float:
        folder = tempfile.mkdtemp(dir=settings["scratch"])
        variables = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        started = time.perf_counter()
        subprocess.run(command(folder), cwd=folder, env=variables, check=True, stdout=sys.stderr)
        return time.perf_counter() - started

    return measure


def ours(settings: dict[str, Any]) -> Callable[[], float]:
    """`python -m experiments.study`."""
    workspace = _converted(settings)
    begin = [sys.executable, "-m", "experiments.study"]
    return _timed(settings, lambda folder: [*begin, *_options(settings, workspace, folder)])


def tutorial(settings: dict[str, Any]) -> Callable[[], float]:
    """`python -m benchmarks.tutorial_study`."""
    (dataset,) = Path(_converted(settings), "datasets").iterdir()
    given = [str(dataset), str(settings["trials"]), str(settings["epochs"])]
    return _timed(settings, lambda folder: [sys.executable, "-m", "benchmarks.tutorial_study", *given, folder])


def bare(settings: dict[str, Any]) -> Callable[[], float]:
    """The trainings alone, one after the other."""
    from seg.start import start_tensorflow

    start_tensorflow()
    import keras

    from seg.config import TrainConfig
    from seg.data.manifest import Manifest
    from seg.training.devices import make_strategy
    from seg.training.fit import fit

    (dataset,) = Path(_converted(settings), "datasets").iterdir()
    manifest = Manifest.load(dataset)
    strategy = make_strategy("auto")

    def measure() -> float:
        total = 0.0
        for loss, filters in arms(settings["trials"]):
            config = TrainConfig(
                image_size=settings["image_size"],
                batch_size=BATCH,
                loss=loss,
                filters=filters,
                epochs=settings["epochs"],
            )
            folder = Path(tempfile.mkdtemp(dir=settings["scratch"]))
            started = time.perf_counter()
            fit(config, manifest, strategy, folder)
            total += time.perf_counter() - started
            keras.backend.clear_session()
        return total

    return measure


def overhead(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Seconds of a trial that are not training, mean over the trials of a study; the facts have each stage."""
    from benchmarks.timed_tasks import STAGES
    from experiments.command_line import datasets
    from experiments.executors.local import LocalExecutor
    from experiments.jobs.messages import Job
    from experiments.study import build_parser, conduct, search_space
    from experiments.tracking.tracker import Tracker

    class Noting(LocalExecutor):
        """Notes when it got which job, by the job's folder."""

        def __init__(self, *slots: int, **options: Any) -> None:
            super().__init__(*slots, **options)
            self.got: dict[str, float] = {}

        def submit(self, job: Job) -> None:
            self.got[str(job.folder)] = time.time()
            super().submit(job)

    def measure() -> dict[str, Any]:
        folder = _converted(settings)
        values = build_parser().parse_args(_options(settings, folder, folder))
        space = search_space(values)
        manifest = datasets.prepare(values, space.base.image_size)
        tracker = Tracker(f"sqlite:///{folder}/mlflow.db", None)
        started = time.perf_counter()
        with Noting(1, tasks="benchmarks.timed_tasks", ahead=True) as executor:
            result = conduct(values, space, manifest, tracker, executor, None)
        elapsed = (time.perf_counter() - started) / settings["trials"]
        with tracker.ending(result.run_id):
            stages = [
                {"process start": -executor.got[str(path.parent)]} | json.loads(path.read_text())
                for path in Path(folder, "studies").rglob(STAGES)
            ]
        assert len(stages) == settings["trials"]
        for stage in stages:
            stage["process start"] += stage.pop("began")
        means = {name: fmean(stage[name] for stage in stages) for name in stages[0]}
        means["tracking and scheduling"] = elapsed - sum(means.values())
        training = means["tracing"] + means["epochs"]
        return {"value": elapsed - training, "seconds": means}

    return measure


def limit(settings: dict[str, Any]) -> Callable[[], float]:
    """What a trial of two minutes may cost besides."""
    return lambda: 0.05 * 120
