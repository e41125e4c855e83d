"""This project beside its peers: everything measured in turn, in one run, on this machine.

    python -m benchmarks --mode short

Prints a table; leaves results.json, results.md and results.png in `output`, and all of them in an MLflow run. Peers
that are not installed (pip install -e '.[bench]') are left out, and the table says so.
"""

import argparse
import importlib
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.harness import Case, CaseResult, run_case
from benchmarks.machine import describe
from benchmarks.plot import plot
from benchmarks.setting import Setting
from experiments.command_line import datasets, entry
from experiments.command_line.options import Option, parser
from experiments.tracking.tracker import Tracker
from seg.data.manifest import Manifest
from seg.errors import UserError

PARTS = ("convert", "pipeline", "training_step", "study", "quality", "inference", "scaling")
_COUNTED = ("convert", "training_step", "study", "inference")
"""Parts whose contenders work in processes that have ended when they say what they measured."""
_SHORT = ("convert", "pipeline", "training_step", "study", "inference")  # the others need longer than five minutes


def build_parser() -> argparse.ArgumentParser:
    output = Option(type=str, default="benchmark", help="folder for the table, the JSON and the plot")
    names = ["data", "workspace", "mode", "parts", "cases", "rounds", "threads", "clock", "output"]
    built = parser("benchmark", __doc__ or "", names, output=output)
    built.prog = "python -m benchmarks"
    return built


def chosen_parts(text: str, mode: str) -> tuple[str, ...]:
    """The parts that the option names; `all`: those of the mode.

    Raises:
        UserError: if there is no such part.
    """
    if text == "all":
        return _SHORT if mode == "short" else PARTS
    names = tuple(text.split(","))
    for name in names:
        if name not in PARTS:
            raise UserError(f"parts must be all or some of {', '.join(PARTS)}, got '{name}'.")
    return names


def read_setting(values: argparse.Namespace) -> Setting:
    """What to measure with.

    Raises:
        UserError: if a number is out of its range.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if values.rounds < 1:
        raise UserError(f"rounds must be at least 1, got {values.rounds}; use 5.")
    if not 0 <= values.threads <= cores:
        raise UserError(f"threads must be from 0, for all cores, to {cores}, got {values.threads}.")
    parts = chosen_parts(values.parts, values.mode)
    if values.clock == "processor" and (values.threads != 1 or not set(parts) <= set(_COUNTED)):
        raise UserError(
            f"clock=processor counts what one thread does: use threads=1 and parts of {','.join(_COUNTED)}, got "
            f"threads={values.threads} and parts={values.parts}."
        )
    workspace = Path(values.workspace).absolute()
    (workspace / "benchmarks").mkdir(parents=True, exist_ok=True)
    return Setting(
        values.mode,
        datasets.export_folder(values).absolute(),
        workspace / "benchmarks",
        values.threads or cores,
        values.rounds,
        values.clock,
    )


def chosen_cases(parts: Sequence[str], text: str, setting: Setting) -> list[Case]:
    """The cases of the parts whose names hold the text.

    Raises:
        UserError: if there is none.
    """
    cases = [case for part in parts for case in importlib.import_module(f"benchmarks.parts.{part}").cases(setting)]
    found = [case for case in cases if text in case.name]
    if not found:
        names = "; ".join(case.name for case in cases)
        raise UserError(f"cases must be part of the name of one, got '{text}'; there are: {names}.")
    return found


def measure(cases: Sequence[Case], setting: Setting, logs: Path) -> Iterator[CaseResult]:
    """Runs the cases, and says on stderr what it does."""
    logs.mkdir(parents=True, exist_ok=True)
    for case in cases:
        print(f"{time.strftime('%H:%M:%S')} {case.part}: {case.name}", file=sys.stderr, flush=True)
        yield run_case(case, logs, setting.threads, setting.clock, lambda line: print(f"  {line}", file=sys.stderr))


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    parts = chosen_parts(values.parts, values.mode)
    tracker = Tracker(launch.tracking_uri, None)
    setting = read_setting(values)
    cases = chosen_cases(parts, values.cases, setting)
    manifest = Manifest.load(Path(setting.dataset(64)))
    parameters = {name: getattr(values, name) for name in ("mode", "parts", "cases", "rounds", "threads", "clock")}
    run_id = tracker.start_run("benchmark", parameters, manifest, adopt=launch.run_id)
    with tracker.ending(run_id):
        machine = describe(setting.threads) | {"clock": setting.clock}
        options = " ".join(f"--{name}={shlex.quote(str(value))}" for name, value in parameters.items() if value != "")
        output = Path(values.output)
        found: list[CaseResult] = []
        for result in measure(cases, setting, output / "logs"):  # a full benchmark takes hours: what it has, it keeps
            found.append(result)
            machine["load_at_end"] = [round(load, 1) for load in os.getloadavg()]
            content = results.as_json(machine, f"python -m benchmarks {options}", found)
            (output / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            table = results.table(machine, found)
            (output / "results.md").write_text(table, encoding="utf-8")
        plot(found).savefig(output / "results.png", dpi=110)
        tracker.log_folder(run_id, output)
        tracker.log_metrics(run_id, results.metrics(found))
    print(table)
    print(f"run {run_id}; browse: {tracker.where_to_browse(run_id)}")
    return 0


if __name__ == "__main__":
    entry.run(main)
