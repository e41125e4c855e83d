"""`Delivery`: a thread that tells MLflow what an outbox holds, so that training never waits for a server."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

from experiments.command_line.passwords import hide
from experiments.tracking.operations import Operation, merged
from experiments.tracking.outbox import Outbox
from seg.errors import UserError

Answer = TypeVar("Answer")
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds before what failed is tried again
_SAY_EVERY = 2.0  # seconds
_POLL = 0.01  # seconds


class NotDelivered(Exception):
    """MLflow does not answer, and the command cannot go on without it; the message says what is left to do."""


class Unanswered(Exception):
    """MLflow did not answer a question in time."""


class Delivery:
    """Delivers run by run: the operations of a run in order, and every other time those of one that is to be created.

    What MLflow refuses of one run holds up no other; it is tried again, less and less often. It closes the outbox.

    Args:
        outbox: what to tell.
        tell: tells one operation; may be called again with it.
        answers: whether MLflow answers at all.
        ids: MLflow's ids of runs that are known by keys; `tell` adds to it.

    Attributes:
        away: whether MLflow did not answer last time.
    """

    def __init__(
        self,
        outbox: Outbox,
        tell: Callable[[Operation], None],
        answers: Callable[[], bool],
        ids: Mapping[str, str],
    ) -> None:
        self._outbox = outbox
        self._tell = tell
        self._answers = answers
        self._ids = ids
        self.away = False
        self._busy = False
        self._refused: dict[str, tuple[float, float, str]] = {}  # of a run: when last, the pause after it, and why
        self._questions: list[tuple[str, Callable[[], object], Future[object]]] = []
        self._asking = threading.Lock()
        self._wake, self._hurry, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._reason = ""
        self._thread = threading.Thread(target=self._run, name="delivery to MLflow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def append(self, operations: Sequence[Operation]) -> None:
        """Has operations told; they are on disk when this returns."""
        self._outbox.append(operations)
        self._wake.set()

    def wait_for_id(self, key: str, patience: float) -> str | None:
        """MLflow's id of a run that is created; None if that takes longer than so many seconds, or fails."""
        deadline = time.monotonic() + patience
        while key not in self._ids and not self.away and key not in self._refused and time.monotonic() < deadline:
            time.sleep(_POLL)
        return self._ids.get(key)

    def ask(self, run: str, question: Callable[[], Answer], patience: float) -> Answer:
        """What MLflow answers once everything that waits for a run is told.

        Raises:
            Unanswered: if it does not within so many seconds.
            UserError: if `question` does.
        """
        if self.away:
            raise Unanswered
        future: Future[Answer] = Future()
        with self._asking:
            self._questions.append((run, question, future))  # type: ignore[arg-type]  # a Future is invariant
        self._wake.set()
        try:
            return future.result(patience)
        except TimeoutError:
            raise Unanswered from None

    def settle(self, patience: float, say: Callable[[str], None], run: str | None = None) -> None:
        """Waits until everything (of a run) is told, or nothing more was for so many seconds.

        Args:
            say: takes a line for people, every few seconds.
        """
        self._hurry.set()  # pauses are short from now on
        self._wake.set()
        left, started = self._left(run), time.monotonic()
        deadline, next_line = started + patience, started + _SAY_EVERY
        while (now := self._left(run)) and self._thread.is_alive():
            late = time.monotonic() > deadline
            if late and not (self._busy and self._answers()):
                break
            if late or now < left:
                left, deadline = now, time.monotonic() + patience
            if time.monotonic() > next_line:
                next_line += _SAY_EVERY
                say(f"delivering to MLflow: {now} operation(s) left{f' ({self._reason})' if self._reason else ''}")
            time.sleep(_POLL)
        self._hurry.clear()

    def close(self) -> None:
        """Ends the thread, and with it its hold of the outbox; what is not told stays there."""
        self._stopped.set()
        self._hurry.set()
        self._wake.set()
        self._thread.join(timeout=3)  # in the middle of a request it ends with the process

    def undelivered(self) -> tuple[int, list[str], str]:
        """How many operations wait, of which runs, and why."""
        reasons = [reason for _, _, reason in self._refused.values()]
        return len(self._outbox), self._outbox.runs(), self._reason or next(iter(reasons), "")

    def _left(self, run: str | None) -> int:
        return len(self._outbox) if run is None else len(self._outbox.of_run(run))

    def _run(self) -> None:
        pause = _SHORTEST_PAUSE
        try:
            while not self._stopped.is_set():
                self._wake.clear()
                self.away = not self._round()
                self._answer_questions(everything=True)
                if self.away:
                    # An event that is set does not pause.
                    (self._stopped if self._hurry.is_set() else self._hurry).wait(self._shortened(pause))
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    pause, self._reason = _SHORTEST_PAUSE, ""
                    pauses = [when + self._shortened(after) for when, after, _ in self._refused.values()]
                    self._wake.wait(max(0.0, min(pauses) - time.monotonic()) if pauses else None)
        finally:
            self._outbox.close()

    def _round(self) -> bool:
        """Tells whatever waits; False if MLflow stopped answering."""
        while not self._stopped.is_set() and (run := self._outbox.next_run(self._passed_over())) is not None:
            self._answer_questions()
            self._busy = True
            try:
                self._deliver(run)
            except Exception as error:  # whatever MLflow, its server or the network came up with
                self._outbox.tell_again(run)
                reason = hide(str(error).partition("\n")[0]) or type(error).__name__
                if not self._answers():
                    self._reason = reason
                    return False
                _, pause, _ = self._refused.get(run, (0.0, _SHORTEST_PAUSE / 2, ""))
                pause = min(2 * pause, _LONGEST_PAUSE)
                self._refused[run] = (time.monotonic(), pause, reason)
            finally:
                self._busy = False
        return True

    def _passed_over(self) -> set[str]:
        now = time.monotonic()
        return {run for run, (when, pause, _) in self._refused.items() if when + self._shortened(pause) > now}

    def _shortened(self, pause: float) -> float:
        return _SHORTEST_PAUSE if self._hurry.is_set() else pause

    def _deliver(self, run: str) -> None:
        for operation, numbers in merged(self._outbox.of_run(run)):
            self._tell(operation)
            self._outbox.acknowledge(run, numbers, self._ids.get(run))
        self._refused.pop(run, None)

    def _answer_questions(self, everything: bool = False) -> None:
        """Asks what can be asked; `everything`: what cannot be will not be soon."""
        with self._asking:
            questions, self._questions = self._questions, []
        for run, question, future in questions:
            if self.away or self._outbox.of_run(run):
                if everything:
                    future.set_exception(Unanswered())
                else:
                    with self._asking:
                        self._questions.append((run, question, future))
                continue
            try:
                future.set_result(question())
            except UserError as error:
                future.set_exception(error)
            except Exception:
                future.set_exception(Unanswered())
