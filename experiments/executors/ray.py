"""`RayExecutor`: jobs on the nodes of a Ray cluster, each as an actor with its CPUs and GPUs.

We connect to a cluster that somebody started, and start nothing that listens. Ray never tries a job again by itself
(`max_restarts=0`): the driver decides, and goes on from the checkpoints that came back.
"""

import contextlib
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from experiments.command_line.code_version import code_variables
from experiments.executors.base import Executor
from experiments.executors.ray_cluster import connect, disconnect, machines
from experiments.executors.ray_node import Cargo, NodeSide, Sight, Surroundings, Told, node_environment
from experiments.executors.shipping import (
    changed_files,
    content_key,
    pieces,
    remove_others,
    shipped_names,
    write_files,
)
from experiments.executors.slots import Share, capacity
from experiments.jobs.messages import Job, JobEnded, JobEvent
from seg.errors import UserError

CANCEL_SECONDS = 12.0
"""After which a job that was cancelled is ended with its actor: longer than a node takes to end a process by force."""

_CLOSE_SECONDS = 3.0
_POLL_SECONDS = 1.0  # of a call that waits on the node; a cancellation waits for its end
_NODES_SECONDS = 2.0  # how long a count of the nodes is good for
_MOST_LOST = 3  # actors that may die before they begin with a job, which is no attempt
_INPUTS = ("dataset", "model")  # arguments of a job that name a folder or a file that it reads


@dataclass
class _Flight:
    """A job under way.

    Attributes:
        actor: its node's side.
        call: the call whose answer is awaited; None while the driver owes an answer.
        stage: what that call is.
        token: the file by which a node knows the job's folder.
        inputs: paths that the job reads, with their content keys, by argument.
        shared: whether the node sees the job's folder.
        cancelled_at: `time.monotonic()`; None if it was not.
        lost: actors that died before they began.
    """

    job: Job
    actor: Any
    call: Any
    token: Path
    inputs: dict[str, tuple[str, str]]
    stage: Literal["begin", "start", "run"] = "begin"
    shared: bool = True
    cancelled_at: float | None = None
    lost: int = 0


class RayExecutor(Executor):
    """Runs each job by a `NodeSide` on whichever node has room.

    A node that sees the job's folder (a file tells) works in it. To any other, the files of earlier attempts and the
    dataset are shipped, the latter once per node; with each report come back what the job wrote since, checkpoints too.

    Args:
        address: `auto`, or HOST:PORT of a cluster; this machine must be one of its nodes.
        slots: jobs at the same time, at most; 0: as many as the nodes have room for.
        share: what each job gets.
        ship: act as if no node saw this machine's folders.
        packages: of this project, that the nodes shall run: these very files.
        tasks: the module whose `run(job, report)` does the work.

    Raises:
        UserError: if the cluster cannot be reached, or no node has room for a job.
    """

    def __init__(
        self,
        address: str = "auto",
        *,
        slots: int = 0,
        share: Share,
        ship: bool = False,
        packages: tuple[str, ...] = ("seg", "experiments"),
        tasks: str = "experiments.jobs.tasks",
    ) -> None:
        self._limit = slots
        self._share = share
        self._ship = ship
        self._tasks = tasks
        self._flights: dict[str, _Flight] = {}
        self._ready: list[JobEvent] = []
        self._idle: list[Any] = []  # actors without a job, which start faster than new ones
        self._references: dict[str, dict[str, list[Any]]] = {}
        self._connected = connect(address, packages)
        self._room, self._counted_at = 0, 0.0
        try:
            found = machines()
            if not capacity(found, share):
                nodes = ", ".join(f"{node.cpus} CPUs and {node.gpus} GPUs" for node in found) or "none"
                raise UserError(
                    f"a node must have {share.cpus} CPUs and {share.gpus} GPUs free for a trial, and the cluster has: "
                    f"{nodes}; use a smaller gpus_per_trial or more slots."
                )
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        if time.monotonic() - self._counted_at > _NODES_SECONDS:
            # At least one: a job waits in Ray's queue until a node comes back.
            self._room = max(1, capacity(machines(), self._share))
            self._counted_at = time.monotonic()
        return min(self._limit, self._room) if self._limit else self._room

    def submit(self, job: Job) -> None:
        folder = Path(job.folder)
        token = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.token")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            token.write_text(token.name, encoding="utf-8")
        except OSError as error:
            self._ready.append(JobEnded(job=job, state="failed", reason=f"could not be started: {error}"))
            return
        inputs = {}
        for name in _INPUTS:
            path = job.arguments.get(name)
            if path and (key := content_key(Path(path))) is not None:
                inputs[name] = (path, key)
        flight = _Flight(job, None, None, token, inputs)
        self._flights[job.name] = flight
        self._begin(flight, self._idle.pop() if self._idle else self._new_actor())

    def _begin(self, flight: _Flight, actor: Any) -> None:
        token = None if self._ship else (str(flight.token), flight.token.name)
        flight.actor = actor
        flight.call = actor.begin.remote(flight.job, Surroundings(token=token, inputs=flight.inputs))

    def _new_actor(self) -> Any:
        import ray

        options = {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus, "max_restarts": 0, "max_task_retries": 0}
        environment = node_environment(self._share.gpus) | code_variables()
        return ray.remote(NodeSide).options(**options).remote(self._tasks, self._share.cpus, environment)

    def wait(self, timeout: float) -> list[JobEvent]:
        deadline = time.monotonic() + timeout
        while True:
            self._end_overdue()
            for flight in self._answered(max(0.0, min(deadline - time.monotonic(), _POLL_SECONDS))):
                self._advance(flight)
            events, self._ready = self._ready, []
            if events or time.monotonic() >= deadline:
                return events

    def _answered(self, timeout: float) -> list[_Flight]:
        """Jobs whose call has returned; waits for the first."""
        import ray

        calls = {flight.call: flight for flight in self._flights.values() if flight.call is not None}
        if self._ready:
            timeout = 0.0
        if not calls:
            time.sleep(timeout)
            return []
        ray.wait(list(calls), num_returns=1, timeout=timeout)
        returned, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return [calls[call] for call in returned]

    def _advance(self, flight: _Flight) -> None:
        """Takes what a call returned and makes the next one."""
        import ray

        try:
            found = ray.get(flight.call)
            flight.call = None
            if isinstance(found, Sight):
                self._start(flight, found)
            elif isinstance(found, Told):
                self._hear(flight, found)
            else:
                flight.stage = "run"
                self._listen(flight)
        except ray.exceptions.RayTaskError as error:
            self._end(flight, _failed(flight.job, error.cause))
        except ray.exceptions.RayError as error:
            if flight.stage == "begin" and flight.lost < _MOST_LOST:
                flight.lost += 1
                self._begin(flight, self._new_actor())
            else:
                self._end(flight, _died(flight, error))
        except OSError as error:
            self._end(flight, _no_room(flight.job, error))

    def _start(self, flight: _Flight, sight: Sight) -> None:
        flight.token.unlink(missing_ok=True)
        if sight.everything:
            flight.stage = "run"
            self._listen(flight)
            return
        flight.shared, flight.stage = sight.shared, "start"
        cargo = Cargo(inputs={name: self._pieces(*flight.inputs[name]) for name in sight.missing})
        if not flight.shared:
            cargo = replace(
                cargo,
                folder=changed_files(Path(flight.job.folder), {}),
                checkpoints=changed_files(checkpoints, {}) if (checkpoints := _checkpoints(flight.job)) else {},
            )
        flight.call = flight.actor.start.remote(flight.job, flight.shared, cargo)

    def _pieces(self, path: str, key: str) -> dict[str, list[Any]]:
        """An input in Ray's object store, where it stays for the nodes to come."""
        import ray

        if key not in self._references:
            self._references[key] = {
                name: [ray.put(piece) for piece in pieces(file)] for name, file in shipped_names(Path(path)).items()
            }
        return self._references[key]

    def _hear(self, flight: _Flight, told: Told) -> None:
        if not flight.shared:
            self._keep(flight.job, told)
        for event in told.events:
            event = replace(event, job=flight.job)
            if isinstance(event, JobEnded):
                self._end(flight, event, kill=False)
                self._keep_actor(flight)
                return
            if flight.cancelled_at is None:
                self._ready.append(event)
        if not told.events or flight.cancelled_at is not None:
            self._listen(flight)  # else once it is answered: calls are made in order, and the answer must not wait

    def _keep_actor(self, flight: _Flight) -> None:
        """Keeps an actor for the next job, unless a job waits for a node: this one may hold what that one needs."""
        flight.actor.clear.remote()
        if not any(each.stage == "begin" for each in self._flights.values()):
            self._idle.append(flight.actor)  # else its last handle goes, and Ray ends it once it is clear

    def _keep(self, job: Job, told: Told) -> None:
        try:
            write_files(Path(job.folder), told.folder)
            checkpoints = _checkpoints(job)
            if checkpoints is not None and told.kept is not None:
                write_files(checkpoints, told.checkpoints)
                remove_others(checkpoints, told.kept)
        except ValueError as error:
            raise OSError(str(error)) from error

    def _listen(self, flight: _Flight) -> None:
        flight.call = flight.actor.wait.remote(_POLL_SECONDS)

    def _end(self, flight: _Flight, ended: JobEnded, kill: bool = True) -> None:
        import ray

        flight.token.unlink(missing_ok=True)
        self._flights.pop(flight.job.name, None)
        self._ready.append(ended)
        if kill:
            with contextlib.suppress(Exception):
                ray.kill(flight.actor)

    def answer(self, job: Job, go_on: bool) -> None:
        flight = self._flights.get(job.name)
        if flight is not None and flight.cancelled_at is None:
            flight.actor.answer.remote(go_on)
            self._listen(flight)

    def cancel(self, job: Job) -> None:
        flight = self._flights.get(job.name)
        if flight is None or flight.cancelled_at is not None:
            return
        if flight.stage == "begin" and self._returned(flight):
            self._advance(flight)
        if flight.stage == "begin":  # it may wait for a node for hours
            self._end(flight, _cancelled(job))
            return
        flight.cancelled_at = time.monotonic()
        flight.actor.cancel.remote()
        if flight.call is None:
            self._listen(flight)

    def _returned(self, flight: _Flight) -> bool:
        import ray

        return bool(ray.wait([flight.call], timeout=0)[0])

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for flight in list(self._flights.values()):
            if flight.cancelled_at is not None and now - flight.cancelled_at > CANCEL_SECONDS:
                self._end(flight, _cancelled(flight.job))

    def close(self) -> None:
        if not self._connected:
            return
        import ray

        self._connected = False
        # An actor that waits for a node answers nothing.
        begun = [each for each in self._flights.values() if each.stage != "begin" or self._returned(each)]
        closing = [flight.actor.close.remote() for flight in begun]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
        for flight in self._flights.values():
            flight.token.unlink(missing_ok=True)
            with contextlib.suppress(Exception):
                ray.kill(flight.actor)
        self._flights.clear()
        self._idle.clear()
        disconnect()


def _checkpoints(job: Job) -> Path | None:
    path = job.arguments.get("checkpoints")
    return Path(path) if path else None


def _cancelled(job: Job) -> JobEnded:
    return JobEnded(job=job, state="cancelled", reason="cancelled")


def _died(flight: _Flight, error: Exception) -> JobEnded:
    """Ray's process for the job is gone, with its node or by itself."""
    if flight.cancelled_at is not None:
        return _cancelled(flight.job)
    why = " ".join(str(error).split())
    reason = f"its node or Ray's process on it died ({type(error).__name__})"
    return JobEnded(job=flight.job, state="failed", reason=reason, traceback=why[:2000], died=True)


def _failed(job: Job, error: BaseException) -> JobEnded:
    """The node's side could not do its part."""
    first_line = str(error).partition("\n")[0]
    return JobEnded(
        job=job,
        state="failed",
        reason=f"{type(error).__name__}: {first_line}",
        traceback=str(error),
        user_error=isinstance(error, UserError),
    )


def _no_room(job: Job, error: OSError) -> JobEnded:
    reason = f"UserError: the files of {job.name} must be kept in {job.folder}, got: {error}; make room and run the "
    return JobEnded(job=job, state="failed", reason=f"{reason}same command again.", user_error=True)
