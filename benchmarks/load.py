"""What the driver, the storage and the tracking cost per trial, however many trials a study has.

    python -m benchmarks.load [--trials 10000] [--slots 1] [--database postgresql|sqlite] [--output load] [--sampled]

Runs a real study (`run_study` of the driver) whose trials do nothing: they report two epochs and leave one small
file, in the driver's own process, so that neither training nor the start of a process is counted. With postgresql both
storages lie in one server, which this command starts, with MLflow's server in front of its own; with sqlite they are
two files. With --sampled, most of the trials are copies in the databases, and 40 are run and measured beside a
hundredth, a tenth, a third and all of them.

Leaves load.json and load.png in the output folder: seconds per trial (the median since the last point), the driver's
resident memory and the size of both databases, against the number of trials.
"""

import argparse
import io
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from matplotlib.figure import Figure

from benchmarks.earlier_trials import copy_trials
from experiments.command_line.progress import Progress
from experiments.executors.base import Executor
from experiments.jobs.messages import Job, JobEnded, JobEvent, JobReported
from experiments.studies.driver import run_study
from experiments.studies.search import SearchSpace
from experiments.tracking.tracker import Tracker
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.training.result import EpochReport, ModelCost, TrainResult
from tests.mlflow_server import mlflow_server
from tests.postgresql_server import postgresql_server

TARGET = 0.3  # seconds per trial
_EPOCHS = 2
_POINTS = 50  # of a whole measurement
_SAMPLE = 40  # trials that are measured at each point of a sampled one
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Backends:
    """Where a study's records go.

    Attributes:
        storage, tracking: URLs of Optuna's storage and MLflow's store.
        database_of_mlflow: URL of what is behind the latter.
        sizes: asks how many bytes each database has.
    """

    storage: str
    tracking: str
    database_of_mlflow: str
    sizes: Callable[[], Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Point:
    """What was measured when a study had so many trials.

    Attributes:
        trials: that had ended.
        seconds: per trial since the point before; the median (with several slots, of the means of so many trials).
        cpu_seconds: of the driver's processor time, per trial since the point before; a busy machine changes it little.
        memory: resident, of the driver, in bytes.
        optuna, mlflow: sizes of the databases, in bytes.
    """

    trials: int
    seconds: float
    cpu_seconds: float
    memory: int
    optuna: int
    mlflow: int


class Meter:
    """Times the trials of a study, and takes a point after every `every` of them."""

    def __init__(self, every: int, slots: int, sizes: Callable[[], Mapping[str, int]], keep: Callable[[Point], None]):
        self._every = max(every, slots)
        self._slots = slots
        self._sizes = sizes
        self._keep = keep
        self._trials = 0
        self._warm = True
        self._begin()

    def _begin(self) -> None:
        self._counted = 0
        self._spans: list[float] = []
        self._since, self._cpu = time.perf_counter(), time.process_time()

    def go_on_at(self, trials: int) -> None:
        """A study goes on with so many trials; the first `slots` that end then are not measured, with its start."""
        self._trials, self._warm = trials, False
        self._begin()

    def trial_ended(self) -> None:
        self._trials += 1
        self._counted += 1
        if not self._warm:
            if self._counted == self._slots:
                self._warm = True
                self._begin()
            return
        if self._counted % self._slots == 0:  # side by side, trials start together and end together
            self._spans.append((time.perf_counter() - self._since) / self._slots)
            self._since = time.perf_counter()
        if self._counted >= self._every and self._spans:
            seconds = statistics.median(self._spans)
            cpu = (time.process_time() - self._cpu) / self._counted
            memory = psutil.Process().memory_info().rss
            self._keep(Point(trials=self._trials, seconds=seconds, cpu_seconds=cpu, memory=memory, **self._sizes()))
            self._begin()  # what it took to measure is nobody's cost


class IdleExecutor(Executor):
    """Trials that do nothing, in the driver's process; what happens to them happens in turn."""

    def __init__(self, slots: int, meter: Meter) -> None:
        self._slots = slots
        self._meter = meter
        self._events: deque[JobEvent] = deque()
        self._histories: dict[str, list[EpochReport]] = {}

    @property
    def slots(self) -> int:
        return self._slots

    def submit(self, job: Job) -> None:
        Path(job.folder).mkdir(parents=True)
        (Path(job.folder) / "log.txt").write_text("nothing was trained\n")
        self._histories[job.name] = []
        self._report(job)

    def wait(self, timeout: float) -> list[JobEvent]:
        event = self._events.popleft()
        if isinstance(event, JobEnded):
            self._meter.trial_ended()
        return [event]

    def answer(self, job: Job, go_on: bool) -> None:
        if go_on and len(self._histories[job.name]) < _EPOCHS:
            self._report(job)
        else:
            history = tuple(self._histories.pop(job.name))
            result = TrainResult(
                stop_reason="epochs" if go_on else "pruned",
                best_epoch=len(history),
                val_dice=history[-1].val_dice,
                parameters=1,
                replicas=1,
                batch_size=10,
                model="model.keras",
                history=history,
            )
            cost = ModelCost(parameters=1, multiply_adds=1, latency_ms=1.0, images_per_second=1.0)
            self._events.append(JobEnded(job=job, state="finished", result=asdict(result) | {"cost": asdict(cost)}))

    def cancel(self, job: Job) -> None:
        self._events.append(JobEnded(job=job, state="cancelled"))

    def close(self) -> None:
        self._events.clear()

    def _report(self, job: Job) -> None:
        history = self._histories[job.name]
        val_dice = 0.5 + job.arguments["config"]["seed"] % 100 / 1000 + len(history) / 10
        report = EpochReport(
            epoch=len(history) + 1, train_loss=1.0, val_loss=1.0, val_dice=val_dice, images_per_second=1.0, seconds=1.0
        )
        history.append(report)
        self._events.append(JobReported(job=job, report=report))


@contextmanager
def open_backends(database: str, folder: Path) -> Iterator[Backends]:
    """PostgreSQL with MLflow's server in front, or two SQLite files."""
    if database == "sqlite":
        files = {name: folder / f"{name}.db" for name in ("optuna", "mlflow")}
        urls = {name: f"sqlite:///{path}" for name, path in files.items()}

        def file_sizes() -> dict[str, int]:
            return {name: sum(file.stat().st_size for file in folder.glob(f"{name}.db*")) for name in files}

        yield Backends(
            storage=urls["optuna"], tracking=urls["mlflow"], database_of_mlflow=urls["mlflow"], sizes=file_sizes
        )
        return
    with postgresql_server(durable=True) as server:
        urls = {name: server.create_database() for name in ("optuna", "mlflow")}

        def database_sizes() -> dict[str, int]:
            asked = {name: f"SELECT pg_database_size('{url.rpartition('/')[2]}')" for name, url in urls.items()}
            return {name: int(server.execute(statement)[0][0]) for name, statement in asked.items()}

        with mlflow_server(folder, urls["mlflow"]) as tracking:
            yield Backends(
                storage=urls["optuna"],
                tracking=tracking,
                database_of_mlflow=urls["mlflow"],
                sizes=database_sizes,
            )


def measure(
    database: str, trials: int, slots: int, workspace: Path, keep: Callable[[Point], None], sampled: bool = False
) -> None:
    """Runs the study and hands each point to `keep`."""
    base = TrainConfig(image_size=64, depth=3, epochs=_EPOCHS)
    manifest = Manifest(
        folder=workspace / "dataset",
        key="0" * 64,
        name="none",
        image_size=64,
        split="official",
        settings={},
        categories=[],
        splits={},
        left_out=[],
    )
    space = SearchSpace(base=base, losses=("bce", "dice"), filters=(8, 16))
    arms = len(space.arms())
    with open_backends(database, workspace) as backends:
        every = _SAMPLE if sampled else max(1, trials // _POINTS)
        meter = Meter(every, slots, backends.sizes, keep)

        def run_until(total: int) -> None:
            tracker = Tracker(backends.tracking, "load", workspace, "load")
            with tracker, IdleExecutor(slots, meter) as executor:
                run_study(
                    study="load",
                    space=space,
                    trials=total,
                    manifest=manifest,
                    workspace=workspace,
                    storage=backends.storage,
                    executor=executor,
                    tracker=tracker,
                    progress=Progress(io.StringIO()),
                )

        if not sampled:
            run_until(trials)
            return
        meter.go_on_at(0)
        run_until(arms)
        for total in (trials // 100, trials // 10, trials // 3, trials):
            copy_trials(backends.storage, backends.database_of_mlflow, arms, total)
            meter.go_on_at(total)
            run_until(total + slots + every)


def draw(points: list[Point], title: str) -> Figure:
    """Seconds per trial, memory and databases, against the number of trials."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    cost, memory, databases = figure.subplots(1, 3)
    trials = [point.trials for point in points]
    cost.plot(trials, [point.seconds for point in points], color="black", label="elapsed")
    cost.plot(trials, [point.cpu_seconds for point in points], color="grey", label="driver's processor time")
    cost.axhline(TARGET, color="grey", linestyle="--", label=f"target, {TARGET:g} s")
    cost.set_title("seconds per trial")
    cost.legend()
    memory.plot(trials, [point.memory / _MIB for point in points], color="black")
    memory.set_title("driver's memory, MiB")
    databases.plot(trials, [point.mlflow / _MIB for point in points], color="black", label="MLflow")
    databases.plot(trials, [point.optuna / _MIB for point in points], color="grey", label="Optuna")
    databases.set_title("databases, MiB")
    databases.legend()
    for axes in (cost, memory, databases):
        axes.set_xlabel("trials")
        axes.set_ylim(bottom=0)
    figure.suptitle(title)
    return figure


def run(database: str, trials: int, slots: int, output: Path, sampled: bool = False) -> list[Point]:
    """Measures, and keeps every point as soon as it is there."""
    output.mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    settings: dict[str, Any] = {"database": database, "trials": trials, "slots": slots, "sampled": sampled}
    settings |= {
        "epochs": _EPOCHS,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "target_seconds": TARGET,
    }

    def keep(point: Point) -> None:
        points.append(point)
        databases = f"databases {point.optuna / _MIB:.0f} and {point.mlflow / _MIB:.0f} MiB"
        print(
            f"{point.trials} trials: {point.seconds:.3f} s per trial, {point.cpu_seconds:.3f} s of the driver's "
            f"processor time, {point.memory / _MIB:.0f} MiB, {databases}",
            flush=True,
        )
        content = settings | {"points": [asdict(each) for each in points]}
        (output / "load.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    with TemporaryDirectory() as workspace:
        measure(database, trials, slots, Path(workspace), keep, sampled)
    draw(points, f"{trials} trials that do nothing, {slots} at once, {database}").savefig(output / "load.png", dpi=100)
    return points


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10000, help="of the study (default: 10000)")
    parser.add_argument("--slots", type=int, default=1, help="trials at the same time (default: 1)")
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--output", type=Path, default=Path("load"), help="folder for load.json and load.png")
    parser.add_argument("--sampled", action="store_true", help="copy most of the trials; on postgresql")
    values = parser.parse_args(arguments)
    if values.sampled and values.database != "postgresql":
        parser.error("--sampled needs --database postgresql")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers are ended too
    run(values.database, values.trials, values.slots, values.output, values.sampled)
    return 0


if __name__ == "__main__":
    sys.exit(main())
