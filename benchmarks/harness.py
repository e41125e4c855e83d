"""Contenders take turns: every round asks each of them once, so that all see the same machine.

A `Case` is one question ("images per second of a training step at filters 16, 128 px") and names its contenders. Each
is a process of its own (`benchmarks.contender`), because TensorFlow, PyTorch and JAX do not go together in one: it
prepares, waits, and measures when told to. What is told of a case are medians over the rounds with their range, and
gains: the ratio of two contenders within a round, median over the rounds, because a machine's other work changes from
round to round.
"""

import importlib.util
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.process import ContenderFailed, ContenderProcess

NOT_INSTALLED = "not installed: pip install -e '.[bench]'"


@dataclass(frozen=True)
class Contender:
    """A way to do the work of a case.

    Attributes:
        name: as tables have it; contenders of one name are the same in all cases.
        work: `module:function`; the function takes `settings` and returns a function without arguments that measures
            once, either a number or a dictionary whose `value` is the number, beside facts for the JSON.
        settings: JSON; the process gets `scratch` besides, a folder that is removed after the case.
        needs: packages that need not be installed.
        environment: further environment variables of its process.
    """

    name: str
    work: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """What the project wants to reach: `contender` at least `gain` times as good as the best of `against`."""

    statement: str
    contender: str
    against: tuple[str, ...]
    gain: float


@dataclass(frozen=True)
class Case:
    """One question.

    Attributes:
        part: of the benchmark that it belongs to.
        name: unique within the part.
        unit: of the values.
        contenders: the first is the reference that others are compared with in tables and in the plot.
        higher_is_better: whether a larger value is a better one.
        rounds: how often each contender measures.
        targets: what shall be reached.
    """

    part: str
    name: str
    unit: str
    contenders: tuple[Contender, ...]
    higher_is_better: bool = True
    rounds: int = 5
    targets: tuple[Target, ...] = ()


@dataclass
class Outcome:
    """What became of a contender: a value for each round, or a note that says why there are none.

    Attributes:
        values: in the case's unit, by round.
        note: for people.
        facts: what the contender said beside the value of its last round.
        peak_mb: largest resident memory of its process, in MB.
    """

    values: list[float] = field(default_factory=list)
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    peak_mb: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class CaseResult:
    """A case and what became of its contenders, by name; `seconds` that it took, preparing included."""

    case: Case
    outcomes: dict[str, Outcome]
    seconds: float = 0.0

    def gain(self, contender: str, against: str) -> float | None:
        """How many times as good a contender is as another: the median over the rounds of the ratios within a round.

        None where one of them has no values.
        """
        first, second = self.outcomes[contender].values, self.outcomes[against].values
        if not first or not second:
            return None
        pairs = zip(first, second, strict=True)
        ratios = [one / other if self.case.higher_is_better else other / one for one, other in pairs]
        return statistics.median(ratios)

    def reached(self, target: Target) -> float | None:
        """The gain over the best of those that the target names and that were measured; None where none were."""
        gains = [self.gain(target.contender, against) for against in target.against]
        found = [gain for gain in gains if gain is not None]
        return min(found) if found else None


def run_case(
    case: Case,
    folder: Path,
    threads: int,
    clock: str = "wall",
    say: Callable[[str], None] = lambda line: None,
    timeout: float = 1800,
) -> CaseResult:
    """Lets all contenders of a case prepare at once, and then measure in turn.

    A contender that fails is told of in its note and costs no other.

    Args:
        case: what to measure.
        folder: for the contenders' logs.
        threads: cores that each contender may use.
        clock: what contenders take for the time: `wall`, or `processor`.
        say: told what happens.
        timeout: seconds that preparing or one measurement may take.
    """
    outcomes = {contender.name: Outcome() for contender in case.contenders}
    running: dict[str, ContenderProcess] = {}
    started = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="scratch_", dir=folder)).absolute()
    try:
        for contender in case.contenders:
            if missing(contender.needs):
                outcomes[contender.name].note = NOT_INSTALLED
                continue
            log = folder / (re.sub(r"[^\w.-]+", "_", f"{case.part} {case.name} {contender.name}") + ".log")
            running[contender.name] = ContenderProcess(
                contender.work,
                {**contender.settings, "scratch": str(scratch)},
                contender.environment,
                threads,
                clock,
                log,
            )
        for name in list(running):
            try:
                running[name].receive(timeout)
            except ContenderFailed as error:
                _give_up(name, str(error), running, outcomes)
        say(f"prepared in {time.monotonic() - started:.0f} s")
        for turn in range(case.rounds):
            order = list(running)
            for name in order if turn % 2 == 0 else reversed(order):
                try:
                    found = running[name].measure(timeout)
                except ContenderFailed as error:
                    _give_up(name, str(error), running, outcomes)
                    continue
                outcome = outcomes[name]
                outcome.values.append(found.pop("value"))
                outcome.peak_mb = found.pop("peak_mb")
                outcome.note = found.pop("note", "")
                outcome.facts = found
                say(f"round {turn + 1} of {case.rounds}: {name} {outcome.values[-1]:.4g} {case.unit} {outcome.note}")
    finally:
        for process in running.values():
            process.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return CaseResult(case, outcomes, time.monotonic() - started)


def missing(packages: Sequence[str]) -> list[str]:
    """Those of the packages that are not installed."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def _give_up(name: str, reason: str, running: dict[str, ContenderProcess], outcomes: dict[str, Outcome]) -> None:
    if name in running:
        running.pop(name).close()
    outcomes[name] = Outcome(note=f"failed: {reason}")
