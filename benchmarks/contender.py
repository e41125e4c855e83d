"""The process of one contender. Started by the harness, never by a person.

    python -m benchmarks.contender MODULE:FUNCTION SETTINGS THREADS CLOCK

It imports the function, calls it with the settings, says `{}`, and for each line on stdin measures and says what came
out. What libraries print goes to stderr.
"""

import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any


def _processor_seconds() -> float:
    """What this process has used, and those that it started and that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main(work: str, settings: str, threads: int, clock: str) -> None:
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    if clock == "processor":
        time.perf_counter = _processor_seconds  # for `seg.training.fit` too, which reports its own speed

    def say(message: dict[str, Any]) -> None:
        said.write(json.dumps(message) + "\n")
        said.flush()

    try:
        module, _, name = work.partition(":")
        prepare: Callable[[dict[str, Any]], Callable[[], float | dict[str, Any]]]
        prepare = getattr(importlib.import_module(module), name)
        measure = prepare(json.loads(settings))
        say({})
        for _ in sys.stdin:
            found = measure()
            message = dict(found) if isinstance(found, dict) else {"value": float(found)}
            peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            say(message | {"peak_mb": peak / 1024})
    except Exception as error:
        traceback.print_exc()
        first_line = str(error).partition("\n")[0]
        say({"error": f"{type(error).__name__}: {first_line}"})
    sys.stderr.flush()
    os._exit(0)  # no library's clean-up is part of the measurement


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
