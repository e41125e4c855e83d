"""What a benchmark found, as JSON, as a table and as metrics."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.harness import CaseResult, Outcome


def as_json(machine: Mapping[str, Any], command: str, results: Sequence[CaseResult]) -> dict[str, Any]:
    """Everything, each round's value too."""
    return {"command": command, "machine": dict(machine), "cases": [_case(result) for result in results]}


def _case(result: CaseResult) -> dict[str, Any]:
    case = result.case
    reference = case.contenders[0].name
    return {
        "part": case.part,
        "name": case.name,
        "unit": case.unit,
        "seconds": round(result.seconds, 1),
        "higher_is_better": case.higher_is_better,
        "contenders": {
            name: asdict(outcome)
            | {
                "median": outcome.median if outcome.values else None,
                f"gain of {reference}": result.gain(reference, name),
            }
            for name, outcome in result.outcomes.items()
        },
        "targets": [asdict(target) | {"found": result.reached(target)} for target in case.targets],
    }


def table(machine: Mapping[str, Any], results: Sequence[CaseResult]) -> str:
    """Markdown for people: the machine, a table per part, and the targets."""
    lines = [*_machine(machine), ""]
    for part in dict.fromkeys(result.case.part for result in results):
        seconds = sum(result.seconds for result in results if result.case.part == part)
        lines += [f"## {part}", "", f"Measured in {seconds:.0f} s, preparing included.", ""]
        lines += [
            "| case | contender | median | lowest to highest | gain of the first | peak MB | note |",
            "|---|---|---|---|---|---|---|",
        ]
        for result in results:
            if result.case.part == part:
                lines += _rows(result)
        lines.append("")
    return "\n".join([*lines, *targets(results)]) + "\n"


def _machine(machine: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gpus = "".join(f"{gpu}, " for gpu in machine["gpus"])
    return [
        f"{gpus}{machine['cpu']} ({', '.join(machine['instructions'])}), {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}; "
        f"{machine['threads']} threads for each contender, {machine['clock']} time; "
        f"load at the start {machine['load'][0]}, at the end {machine['load_at_end'][0]}.",
        "",
        f"{versions}.",
    ]


def _rows(result: CaseResult) -> list[str]:
    reference = result.case.contenders[0].name
    rows = []
    for name, outcome in result.outcomes.items():
        label = f"{result.case.name} ({result.case.unit}, {_rounds(result)})" if name == reference else ""
        if not outcome.values:
            rows.append(f"| {label} | {name} | – | – | – | – | {outcome.note} |")
            continue
        gain = result.gain(reference, name)
        told = "" if name == reference or gain is None else f"{gain:.2f}"
        spread = f"{_short(min(outcome.values))} to {_short(max(outcome.values))}"
        numbers = f"{_short(outcome.median)} | {spread} | {told} | {outcome.peak_mb:.0f}"
        rows.append(f"| {label} | {name} | {numbers} | {_note(outcome)} |")
    return rows


def _rounds(result: CaseResult) -> str:
    rounds = result.case.rounds
    return f"{rounds} round" + "s" * (rounds > 1)


def _note(outcome: Outcome) -> str:
    parts = [outcome.note] if outcome.note else []
    if seconds := outcome.facts.get("seconds"):
        parts += [f"{name} {value:.1f} s" for name, value in seconds.items()]
    if speed := outcome.facts.get("gigaflops_per_second"):
        parts.append(f"{speed:.0f} GFLOP/s")
    return ", ".join(parts)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def targets(results: Sequence[CaseResult]) -> list[str]:
    """A table of what shall be reached and what was."""
    rows = []
    for result in results:
        for target in result.case.targets:
            found = result.reached(target)
            verdict = "not measured" if found is None else "reached" if found >= target.gain else "**missed**"
            told = "–" if found is None else f"{found:.2f}"
            case = f"{result.case.part}: {result.case.name}"
            rows.append(f"| {case} | {target.statement} | {target.gain:.2f} | {told} | {verdict} |")
    if not rows:
        return []
    return ["## Targets", "", "| case | target | needs | found | |", "|---|---|---|---|---|", *rows]


def metrics(results: Sequence[CaseResult]) -> dict[str, float]:
    """The medians, by names that MLflow takes."""
    return {
        re.sub(r"[^\w\-. :/]", " ", f"{result.case.part}/{result.case.name}/{name}"): outcome.median
        for result in results
        for name, outcome in result.outcomes.items()
        if outcome.values
    }
