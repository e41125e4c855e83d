"""Live progress of a study on stderr: one line that updates on a terminal, few plain lines elsewhere."""

import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from seg.config import TrainConfig
from seg.training.result import EpochReport

_PLAIN_SECONDS = 10.0
_BAR_CELLS = 10
_ERASE_LINE = "\r\x1b[2K"


@dataclass
class _Shown:
    ordinal: int
    arm: str
    epochs: int
    epoch: int = 0
    val_dice: float | None = None


class Progress:
    """Tells a person where a study stands.

    Args:
        stream: where to; lines are rewritten in place only if it is a terminal.
        clock: seconds, monotonic.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._live = self._stream.isatty()
        self._running: dict[int, _Shown] = {}
        self._trials = self._ordinal = self._ended = self._to_run = self._epochs_done = 0
        self._base = TrainConfig()
        self._best: float | None = None
        self._started = self._last_plain = clock()
        self._line = ""

    def study(self, trials: int, finished: int, base: TrainConfig, best: float | None) -> None:
        """A study begins or goes on: its total, what of it is finished, what its trials are variations of."""
        self._trials, self._ordinal, self._to_run = trials, finished, max(0, trials - finished)
        self._base, self._best = base, best
        self._started = self._last_plain = self._clock()

    def trial_started(self, number: int, config: TrainConfig) -> None:
        self._ordinal += 1
        self._running[number] = _Shown(self._ordinal, describe(config, self._base), config.epochs)
        self._show(number)

    def epoch(self, number: int, report: EpochReport) -> None:
        shown = self._running[number]
        shown.epoch, shown.val_dice = report.epoch, report.val_dice
        self._epochs_done += 1
        self._show(number)

    def trial_ended(self, number: int, state: str, val_dice: float | None, detail: str) -> None:
        """A line that stays: how a trial ended. `detail` says why, when it did not finish."""
        self.close()
        shown = self._running.pop(number)
        self._ended += 1
        outcome = state if val_dice is None else f"val_dice {val_dice:.4f}"
        if state == "finished" and val_dice is not None and (self._best is None or val_dice > self._best):
            self._best = val_dice
            outcome += ", best so far"
        elif state == "pruned":
            outcome = f"pruned at epoch {shown.epoch}, {outcome}"
        self.say(f"trial {shown.ordinal}/{self._trials}  {shown.arm}  {outcome}" + (f": {detail}" if detail else ""))

    def trial_waits(self, number: int, reason: str) -> None:
        """A line that stays: a trial stopped, and will go on."""
        self.close()
        shown = self._running.pop(number)
        self._ordinal -= 1
        self.say(f"trial {shown.ordinal}/{self._trials}  {shown.arm}  stopped after epoch {shown.epoch}: {reason}")

    def say(self, text: str) -> None:
        """Prints a line above the live line."""
        self._write((_ERASE_LINE if self._line else "") + text + "\n" + self._line)
        self._last_plain = self._clock()

    def close(self) -> None:
        """Removes the live line."""
        if self._line:
            self._write(_ERASE_LINE)
        self._line = ""

    def _show(self, number: int) -> None:
        text = self._status(self._running[number])
        if self._live:
            self._line = text[: shutil.get_terminal_size().columns - 1]
            self._write(_ERASE_LINE + self._line)
        elif self._clock() - self._last_plain >= _PLAIN_SECONDS:
            self.say(text)

    def _status(self, shown: _Shown) -> str:
        parts = [f"trial {shown.ordinal}/{self._trials}"]
        if shown.epoch == 0:
            parts.append("starting")
        else:
            bar = "━" * round(_BAR_CELLS * shown.epoch / shown.epochs)
            parts.append(f"{bar:─<{_BAR_CELLS}} epoch {shown.epoch}/{shown.epochs}")
            parts.append(f"val_dice {shown.val_dice:.4f}")
        if self._best is not None:
            parts.append(f"best {self._best:.4f}")
        if len(self._running) > 1:
            parts.append(f"{len(self._running)} at once")
        left = self._seconds_left()
        if left is not None:
            parts.append(f"{duration(left)} left")
        return "  ".join([*parts, shown.arm])  # the arm last: a narrow terminal cuts it first

    def _seconds_left(self) -> float | None:
        """At the pace so far, if every trial used all its epochs."""
        if self._epochs_done == 0:
            return None
        pace = (self._clock() - self._started) / self._epochs_done
        of_running = sum(shown.epochs - shown.epoch for shown in self._running.values())
        to_start = self._to_run - self._ended - len(self._running)
        return pace * (of_running + to_start * self._base.epochs)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def describe(config: TrainConfig, base: TrainConfig) -> str:
    """What tells a trial from the others of its study: `dice, filters 16, seed 1`."""
    words = [
        f"{name} {_short(value)}"
        for name, value in config.as_dict().items()
        if name not in ("loss", "filters") and value != getattr(base, name)
    ]
    return ", ".join([config.loss, f"filters {config.filters}", *words])


def _short(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def short(count: float) -> str:
    """A count of at least 0 with three digits: `45`, `1.23 M`, `789 G`."""
    rounded = float(f"{count:.3g}")  # first, or 999,999 becomes 1000 k
    prefix = max(0, math.floor(math.log10(rounded)) // 3) if rounded else 0
    return f"{rounded / 1000**prefix:.3g} {' kMGTP'[prefix]}".strip()
