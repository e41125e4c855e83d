"""Contenders whose measurements are known, for tests/test_benchmarks.py."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def series(settings: dict[str, Any]) -> Callable[[], Any]:
    """Gives the values one after the other, and notes in a file that it was asked."""
    values = iter(settings["values"])

    def measure() -> Any:
        with open(settings["asked"], "a", encoding="utf-8") as file:
            file.write(settings["name"])
        print("what a library prints")
        return next(values)

    return measure


def refuses(settings: dict[str, Any]) -> Callable[[], float]:
    raise ValueError("cannot prepare\nat all")


def dies(settings: dict[str, Any]) -> Callable[[], float]:
    return lambda: os._exit(7)


def hangs(settings: dict[str, Any]) -> Callable[[], float]:
    def measure() -> float:
        time.sleep(60)
        return 1.0

    return measure


def told(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """What its process was given."""
    return lambda: {
        "value": float(os.environ["OMP_NUM_THREADS"]),
        "note": os.environ["GREETING"],
        "cores": len(os.sched_getaffinity(0)),
    }


def leaves(settings: dict[str, Any]) -> Callable[[], float]:
    """A file in its scratch folder, whose place it tells in another."""
    place = Path(settings["scratch"]) / "left"
    place.write_text("much", encoding="utf-8")
    Path(settings["told"]).write_text(str(place), encoding="utf-8")
    return lambda: float(place.exists())


def waits(settings: dict[str, Any]) -> Callable[[], float]:
    """What its clock says of half a second of waiting."""

    def measure() -> float:
        started = time.perf_counter()
        time.sleep(0.5)
        return time.perf_counter() - started

    return measure
