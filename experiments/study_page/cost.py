"""What the study took: every trial with its size, speed and time."""

from collections import Counter

from experiments.comparison import varied
from experiments.progress import duration
from experiments.storage import TrialRow
from experiments.study_page.record import StudyRecord
from experiments.study_page.sections import note, section, sortable, words
from seg.page import Html

_MISSING = "–"


def cost(record: StudyRecord) -> Html:
    """All trials, by number."""
    rows = record.study.rows
    if not rows:
        return section("trials", "Trials and what they cost", note("The study has no trial."))
    names = varied(rows)
    seeds = ["seed"] if len({row.config.seed for row in rows if row.config}) > 1 else []
    columns = ["trial", *names, *seeds, "state", "val_dice", "epochs", "parameters", "images/s", "time"]
    failed = any(row.reason for row in rows)
    table = sortable(columns + ["reason"] * failed, [_cells(record, row, names + seeds, failed) for row in rows])
    states = ", ".join(f"{count} {state}" for state, count in Counter(row.state for row in rows).items())
    total = duration(sum(row.seconds or 0 for row in rows))
    parts = [words(f"{states}; {total} of training in total, trials side by side counted each."), table]
    if any(row.state in ("finished", "pruned") and _unknown(record, row) for row in rows):
        parts.append(note(f"{_MISSING}: the trial's files are no longer in the workspace, or are of an older version."))
    return section("trials", "Trials and what they cost", *parts)


def _unknown(record: StudyRecord, row: TrialRow) -> bool:
    found = record.cost(row)
    return found is None or found.parameters is None


def _cells(record: StudyRecord, row: TrialRow, names: list[str], reasons: bool) -> list[str | tuple[str, float]]:
    found = record.cost(row)
    options = [_option(None if row.config is None else getattr(row.config, name)) for name in names]
    numbers = [
        _number(row.val_dice, ".3f"),
        _number(found.epochs if found else None, ","),
        _number(found.parameters if found else None, ","),
        _number(found.images_per_second if found else None, ".1f"),
        (duration(row.seconds), row.seconds) if row.seconds is not None else _number(None, ""),
    ]
    return [_number(row.number, "d"), *options, row.state, *numbers, *([row.reason] if reasons else [])]


def _option(value: object) -> str | tuple[str, float]:
    if isinstance(value, int | float):
        return f"{value:.3g}" if isinstance(value, float) else str(value), value
    return _MISSING if value is None else str(value)


def _number(value: float | None, form: str) -> tuple[str, float]:
    """Missing ones sort first."""
    return (_MISSING, -1.0) if value is None else (format(value, form), value)
