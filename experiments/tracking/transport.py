"""How operations get to MLflow: `Direct`, at once, or `ThroughOutbox`, kept on disk first and told by a thread."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from mlflow.exceptions import MlflowException

from experiments.command_line.passwords import hide
from experiments.storage import fence
from experiments.tracking import tracking_uri
from experiments.tracking.delivery import Delivery, NotDelivered, Unanswered
from experiments.tracking.operations import Operation, merged
from experiments.tracking.outbox import JOURNAL, Outbox
from experiments.tracking.outboxes import Outboxes
from experiments.tracking.recorder import Recorder
from seg.errors import UserError

Answer = TypeVar("Answer")
_ATTEMPTS = 3  # to create a run, each after a look whether the one before did
_PATIENCE = 10.0  # seconds without any progress at the end, and for an answer before anything trains
_LOCAL_PATIENCE = 30.0  # seconds for an answer of a database on this machine, which is never away
_BRIEFLY = 0.5  # seconds for an answer of a server while trials train


class Transport(Protocol):
    """Both ways."""

    def tell(self, *operations: Operation) -> None:
        """Tells MLflow, now or later."""

    def create(self, creation: Operation, *, training: bool) -> str:
        """Has a run created; returns its id, or, where MLflow does not answer in time, its key."""

    def ask(self, run: str, question: Callable[[], Answer], default: Answer, *, training: bool) -> Answer:
        """What MLflow answers about a run, or the default where it does not in time; raises the UserError of it."""

    def last_epoch(self, run: str) -> int:
        """The last epoch of a run that this way knows of by itself; 0 if none."""

    def take_over(self) -> None:
        """Has what drivers of the same study left, which died, told before anything that is told from now on."""

    def delivered(self, run: str) -> str:
        """MLflow's id of a run, once it was told everything; raises NotDelivered if it does not answer."""

    def finish(self) -> None:
        """Waits a little for what was not told yet, and ends."""

    def undelivered(self) -> str:
        """What was not told, in one line; empty if nothing."""


class Direct:
    """Tells at once; what fails raises.

    Args:
        recorder: of the store.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def tell(self, *operations: Operation) -> None:
        for operation in operations:
            self._recorder.apply(operation)

    def create(self, creation: Operation, *, training: bool) -> str:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self.tell(replace(creation, again=creation.again or attempt > 1))
                break
            except MlflowException:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(attempt)  # the answer was lost, or the server is not there
        return self._recorder.run_id(creation.run)

    def ask(self, run: str, question: Callable[[], Answer], default: Answer, *, training: bool) -> Answer:
        return question()

    def last_epoch(self, run: str) -> int:
        return 0

    def take_over(self) -> None:
        pass

    def delivered(self, run: str) -> str:
        return self._recorder.run_id(run)

    def finish(self) -> None:
        pass

    def undelivered(self) -> str:
        return ""


class ThroughOutbox:
    """Appends to an outbox, from which a thread tells; nothing waits longer than a moment for MLflow.

    Args:
        recorder: of the store.
        uri: of the store.
        workspace: holds the outboxes.
        name: of the outbox: who writes to it.
        online: whether the store answers; what earlier commands left is told first then.

    Raises:
        UserError: if the workspace cannot be written.
    """

    def __init__(self, recorder: Recorder, uri: str, workspace: Path, name: str, *, online: bool) -> None:
        self._recorder = recorder
        self._uri = uri
        self._workspace = workspace
        outboxes = Outboxes.of(workspace, uri)
        try:
            if online:
                outboxes.note_reached()
            outbox = outboxes.open(name)
        except OSError as error:
            raise UserError(f"workspace must be a folder that can be written, got {workspace} ({error}).") from None
        _warn_of_damage(outbox)
        if not online:
            _say(f"MLflow does not answer at {tracking_uri.displayed(uri)}: what it shall hear is kept for it")
        elif len(outbox):
            _say(f"MLflow is told what an earlier command left: {len(outbox)} operation(s)")
        for other in outboxes.waiting() if online else ():
            deliver_now(other, recorder, lambda: answers(uri))
        recorder.ids |= outbox.ids
        self._outbox = outbox
        self._briefly = _LOCAL_PATIENCE if tracking_uri.sqlite_path(uri) else _BRIEFLY
        self._delivery = Delivery(outbox, lambda told: _apply(recorder, told), lambda: answers(uri), recorder.ids)
        self._delivery.start()

    def tell(self, *operations: Operation) -> None:
        fence.check()  # what is kept on disk outlasts a process that was taken for dead
        self._delivery.append(operations)

    def create(self, creation: Operation, *, training: bool) -> str:
        if creation.again:  # what an earlier process noted of it may be gone
            self._recorder.ids.pop(creation.run, None)
        self.tell(creation)
        return self._delivery.wait_for_id(creation.run, self._patience(training)) or creation.run

    def ask(self, run: str, question: Callable[[], Answer], default: Answer, *, training: bool) -> Answer:
        try:
            return self._delivery.ask(run, question, self._patience(training))
        except Unanswered:
            return default

    def last_epoch(self, run: str) -> int:
        return self._outbox.last_epoch(run)

    def take_over(self) -> None:
        study = self._outbox.folder.name.partition("+")[0]
        for other in Outboxes.of(self._workspace, self._uri).waiting():
            if other.folder.name.partition("+")[0] == study:
                _warn_of_damage(other)
                self._recorder.ids |= other.ids
                self._outbox.take_in(other)

    def delivered(self, run: str) -> str:
        self._delivery.settle(_PATIENCE, _say, run)
        if self._outbox.of_run(run):
            raise NotDelivered(f"{self.undelivered()}; then the same command again does the rest")
        return self._recorder.run_id(run)

    def finish(self) -> None:
        self._delivery.settle(_PATIENCE, _say)
        self._delivery.close()

    def undelivered(self) -> str:
        count, runs, reason = self._delivery.undelivered()
        if not count:
            return ""
        named = ", ".join(run[:8] for run in runs[:3]) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
        why = f" ({tracking_uri.without_secrets(reason, self._uri)[:200]})" if reason else ""
        return (
            f"not yet delivered to MLflow at {tracking_uri.displayed(self._uri)}: {count} operation(s) of {len(runs)} "
            f"run(s), {named}{why}; when it answers, python -m experiments.sync --workspace {self._workspace}"
        )

    def _patience(self, training: bool) -> float:
        return self._briefly if training else max(_PATIENCE, self._briefly)


def answers(uri: str) -> bool:
    """Whether the store answers."""
    try:
        tracking_uri.probe(uri)
    except UserError:
        return False
    return True


def deliver_now(outbox: Outbox, recorder: Recorder, answering: Callable[[], bool]) -> str:
    """Tells what an outbox holds, once; returns why something was left, empty if nothing was."""
    _warn_of_damage(outbox)
    recorder.ids |= outbox.ids
    reason = ""
    for run in outbox.runs():
        try:
            for operation, numbers in merged(outbox.of_run(run)):
                _apply(recorder, operation)
                outbox.acknowledge(run, numbers, recorder.ids.get(run))
        except Exception as error:  # whatever MLflow, its server or the network came up with
            reason = hide(str(error).partition("\n")[0]) or type(error).__name__
            if not answering():
                break
    return reason


def _apply(recorder: Recorder, operation: Operation) -> None:
    """Tells it; who waits here tries again himself, and MLflow would block for half a minute."""
    with tracking_uri.one_attempt():
        recorder.apply(operation)


def _warn_of_damage(outbox: Outbox) -> None:
    if outbox.damaged:
        _say(f"{outbox.damaged} line(s) of {outbox.folder / JOURNAL} were damaged and are lost; the rest is delivered")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
