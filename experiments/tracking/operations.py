"""`Operation`: one thing that MLflow is told of one run. Told twice, it counts once, so it may be told again."""

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

Kind = Literal["create", "start", "batch", "note", "status", "files", "image"]
RUN_KEY = "run_key"  # tag of a run: what it was called before MLflow named it
_KEY_LENGTH = 32  # as MLflow's own ids, of which none begins with k: they are hexadecimal
_LARGEST_BATCH = {"metrics": 1000, "params": 100, "tags": 100}  # what MLflow takes at once
_LARGEST_SUM = 1000


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One thing to tell.

    Attributes:
        run: MLflow's id of the run, or the key that it is created with.
        do: what kind of thing; `experiments.tracking.recorder` says what each kind does.
        what: its content, as JSON has it.
        files: a folder whose files belong to it.
        number: its place in an outbox.
        again: whether it may have been told before.
    """

    run: str
    do: Kind
    what: Mapping[str, Any]
    files: Path | None = None
    number: int = 0
    again: bool = False


def now() -> int:
    """In milliseconds, as MLflow has it."""
    return int(time.time() * 1000)


def new_key() -> str:
    """The key of a run that is like no other."""
    return f"k{secrets.token_hex(_KEY_LENGTH)[: _KEY_LENGTH - 1]}"


def trial_key(parent: str, trial: int) -> str:
    """The key of a trial's run: the same whoever starts it, and however often."""
    return f"k{sha256(f'{parent} {trial}'.encode()).hexdigest()[: _KEY_LENGTH - 1]}"


def is_key(run: str) -> bool:
    """Whether a run is called by its key, not by MLflow's id."""
    return run.startswith("k") and len(run) == _KEY_LENGTH


def merged(operations: Iterable[Operation]) -> Iterator[tuple[Operation, list[int]]]:
    """The operations of one run in order, neighbouring batches as one; with each the numbers that it stands for."""
    last: Operation | None = None
    numbers: list[int] = []
    for operation in operations:
        both = None if last is None else _together(last, operation)
        if last is not None and both is None:
            yield last, numbers
            numbers = []
        last = both or operation
        numbers = [*numbers, operation.number]
    if last is not None:
        yield last, numbers


def _together(first: Operation, second: Operation) -> Operation | None:
    if first.do != "batch" or second.do != "batch" or "parent" in first.what or "parent" in second.what:
        return None
    metrics = [*first.what.get("metrics", ()), *second.what.get("metrics", ())]
    params = first.what.get("params", {}) | second.what.get("params", {})
    tags = first.what.get("tags", {}) | second.what.get("tags", {})
    what = {"metrics": metrics, "params": params, "tags": tags}
    sizes = {name: len(content) for name, content in what.items()}
    if sum(sizes.values()) > _LARGEST_SUM or any(sizes[name] > most for name, most in _LARGEST_BATCH.items()):
        return None
    return Operation(run=first.run, do="batch", what=what, number=second.number, again=first.again or second.again)
