"""`NodeSide`: one job on a node of a Ray cluster. An actor of Ray's; the driver's side is `RayExecutor`.

It runs the job by a `LocalExecutor` of one slot, in a process of its own: whatever happens to TensorFlow, Ray's process
lives and says how the job ended. Where the node does not see the driver's folders, files come and go as bytes.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.executors.local import LocalExecutor
from experiments.executors.shipping import (
    Stamps,
    changed_files,
    check_name,
    content_key,
    fetch_once,
    private_folder,
    write_files,
)
from experiments.jobs.messages import Job, JobEvent

Pieces = Mapping[str, Sequence[Any]]
"""Files of an input by name, each a list of references to pieces of its content in Ray's object store."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the driver sees; the node says what of it it sees too.

    Attributes:
        token: path of a file and what it contains; None: the node shall act as if it saw none of the driver's folders.
        inputs: paths that the job reads, by the argument that names them, each with its `content_key`.
    """

    token: tuple[str, str] | None
    inputs: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What a node sees.

    Attributes:
        shared: the job's folder: the job works in it, and nothing is shipped back.
        missing: inputs that the node neither sees nor keeps from an earlier job.
    """

    shared: bool
    missing: tuple[str, ...]

    @property
    def everything(self) -> bool:
        return self.shared and not self.missing


@dataclass(frozen=True, kw_only=True)
class Cargo:
    """What a node without the driver's folders gets for a job: earlier attempts' files, and missing inputs."""

    folder: Mapping[str, bytes] = field(default_factory=dict)
    checkpoints: Mapping[str, bytes] = field(default_factory=dict)
    inputs: Mapping[str, Pieces] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What happened on the node.

    Attributes:
        events: of the job; their `job` has the node's paths.
        folder, checkpoints: new and changed files.
        kept: names of all checkpoints; None where they lie in the driver's folder.
    """

    events: list[JobEvent]
    folder: Mapping[str, bytes] = field(default_factory=dict)
    checkpoints: Mapping[str, bytes] = field(default_factory=dict)
    kept: tuple[str, ...] | None = None


class NodeSide:
    """Runs a job, then another; Ray makes one call at a time, in order.

    Args:
        tasks: the module of the tasks.
        threads: that the job may compute with.
        environment: variables of its process.
    """

    def __init__(self, tasks: str, threads: int, environment: Mapping[str, str]) -> None:
        self._executor = LocalExecutor(1, tasks=tasks, threads=threads, environment=environment)
        self._surroundings = Surroundings(token=None, inputs={})
        self._folder: Path | None = None
        self._checkpoints: Path | None = None
        self._sent: tuple[Stamps, Stamps] = ({}, {})
        self._job: Job | None = None

    def begin(self, job: Job, surroundings: Surroundings) -> Sight:
        """Says what this node sees, and starts the job if that is all of it."""
        self._surroundings = surroundings
        shared = surroundings.token is not None and _holds(*surroundings.token)
        missing = [name for name in surroundings.inputs if self._place_of(name) is None]
        sight = Sight(shared=shared, missing=tuple(missing))
        if sight.everything:
            self.start(job, shared, Cargo())
        return sight

    def start(self, job: Job, shared: bool, cargo: Cargo) -> None:
        """Starts the job, in the driver's folder or in one of its own."""
        places = {name: str(self._fetch(name, cargo)) for name in self._surroundings.inputs}
        job = replace(job, arguments=job.arguments | places)
        if not shared:
            job = self._at_home(job, cargo)
        self._job = job
        self._executor.submit(job)

    def wait(self, timeout: float) -> Told:
        """What happened since the last call; after a report the job's process waits, so that its files are whole."""
        events = self._executor.wait(timeout)
        if self._folder is None or self._checkpoints is None:
            return Told(events=events)
        if not events:
            return Told(events=[])
        return Told(
            events=events,
            folder=changed_files(self._folder, self._sent[0]),
            checkpoints=changed_files(self._checkpoints, self._sent[1]),
            kept=tuple(path.name for path in self._checkpoints.iterdir()) if self._checkpoints.is_dir() else (),
        )

    def answer(self, go_on: bool) -> None:
        assert self._job is not None
        self._executor.answer(self._job, go_on)

    def cancel(self) -> None:
        assert self._job is not None
        self._executor.cancel(self._job)

    def clear(self) -> None:
        """Removes what was shipped back: the next job may come."""
        if self._folder is not None:
            shutil.rmtree(self._folder.parent, ignore_errors=True)
        self._folder = self._checkpoints = self._job = None
        self._sent = ({}, {})

    def close(self) -> None:
        """Ends the job's process."""
        self._executor.close()
        self.clear()

    def _at_home(self, job: Job, cargo: Cargo) -> Job:
        home = Path(tempfile.mkdtemp(prefix="job_", dir=private_folder()))
        # The folder's own name: tasks and their logs may show it.
        self._folder = home / Path(job.folder).name
        self._checkpoints = home / "checkpoints"
        self._folder.mkdir()
        write_files(self._folder, cargo.folder)
        write_files(self._checkpoints, cargo.checkpoints)
        changed_files(self._folder, self._sent[0])  # the driver has these
        changed_files(self._checkpoints, self._sent[1])
        arguments = job.arguments
        if arguments.get("checkpoints"):
            arguments = arguments | {"checkpoints": str(self._checkpoints)}
        return replace(job, folder=str(self._folder), arguments=arguments)

    def _place_of(self, name: str) -> Path | None:
        """Where this node has an input: at the driver's path, or from an earlier job."""
        path, key = self._surroundings.inputs[name]
        if self._surroundings.token is not None and content_key(Path(path)) == key:
            return Path(path)
        kept = private_folder() / "inputs" / key
        return (kept if _is_folder(path, kept) else kept / Path(path).name) if kept.exists() else None

    def _fetch(self, name: str, cargo: Cargo) -> Path:
        place = self._place_of(name)
        if place is None:
            _, key = self._surroundings.inputs[name]
            fetch_once(private_folder() / "inputs", key, _writer(cargo.inputs[name]))
            place = self._place_of(name)
            assert place is not None
        return place


def _is_folder(path: str, kept: Path) -> bool:
    """Whether an input is a dataset's folder; a file lies under its own name."""
    return not (kept / Path(path).name).is_file()


def _writer(files: Pieces) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        import ray

        for name, references in files.items():
            check_name(name)
            with (folder / name).open("wb") as file:
                for reference in references:
                    piece: Any = ray.get(reference)
                    file.write(piece)

    return write


def _holds(path: str, text: str) -> bool:
    try:
        return Path(path).read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False


def node_environment(gpus: int) -> dict[str, str]:
    """Variables for a job: Ray hides no GPU from work that asked for none."""
    return {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
