"""Ctrl-C and SIGTERM: the first asks for an orderly end, a second Ctrl-C ends at once."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_CODE = 130


class Interrupted(KeyboardInterrupt):
    """A study was interrupted and is settled; the entry point exits with `EXIT_CODE`."""


class Interrupts:
    """Notes the first SIGINT or SIGTERM in `requested` while the block runs. For the main thread."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Ctrl-C under `mlflow run` arrives twice: from the terminal, and as SIGTERM from MLflow, which then waits.
        if self.requested and number == signal.SIGINT:
            os._exit(EXIT_CODE)  # the jobs' processes notice; the next command settles what is left
        self.requested = True
