"""Checkpoints: all that training must know to go on as if it had never stopped, in one checked file per epoch.

The order of the images and their augmentation follow from (seed, epoch), so that the variables of model and optimizer
(weights, statistics, moments, the states of random generators) and the history are all there is to keep.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from seg.errors import UserError
from seg.training.result import EpochReport

KEPT = 2
"""Checkpoints that stay: if the newest cannot be read, the one before it can."""

UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # a damaged entry may ask for a password, or for another version of ZIP
)
"""What reading a damaged `.npz` file raises."""

_STATE = "state"
_NAME = re.compile(r"epoch_(\d{5})\.npz")


def kept_precision(folder: Path) -> str | None:
    """The number format of the training whose newest readable checkpoint lies in a folder; None where none does."""
    for path in _files(folder):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                return str(json.loads(str(content[_STATE]))["identity"]["config"]["precision"])
        except UNREADABLE:
            continue
    return None


class Checkpoints:
    """The checkpoints of one training run.

    A file is written beside its place and renamed; ZIP's checksums tell a damaged one when it is read.

    Args:
        folder: holds nothing else; made when it is missing.
        identity: what a checkpoint must agree with to be of use, JSON-serialisable: configuration, dataset, replicas.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        self._identity = dict(identity)

    def save(self, model: keras.Model, history: Sequence[EpochReport]) -> None:
        """Writes the state after the last epoch of `history`; older checkpoints but one are removed.

        Raises:
            UserError: if there is no room, or the folder cannot be written.
        """
        path = self._folder / f"epoch_{history[-1].epoch:05}.npz"
        partial = path.with_suffix(".partial")
        state = {"identity": self._identity, "history": [asdict(report) for report in history]}
        arrays = {_key(index): np.asarray(variable) for index, variable in enumerate(_variables(model))}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.savez(file, **arrays, **{_STATE: np.array(json.dumps(state))})  # type: ignore[arg-type]
            partial.replace(path)
            for old in _files(self._folder)[KEPT:]:
                old.unlink()
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise UserError(
                f"a checkpoint must be written to {self._folder}, got: {error.strerror or error}; make room and run "
                "the same command again."
            ) from error

    def restore(self, model: keras.Model) -> list[EpochReport]:
        """Sets the variables of model and optimizer as they were; call it within the strategy's scope.

        Files that cannot be read (their writer was killed, the disk was full) are passed over.

        Returns:
            The history up to the restored epoch; empty if there is no checkpoint, and then nothing is changed.

        Raises:
            UserError: if the checkpoint is of another configuration, dataset or number of replicas.
        """
        model.optimizer.build(model.trainable_variables)
        for path in _files(self._folder):
            try:
                # Opened here: NumPy leaves a file open that turns out to be damaged.
                with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                    state = json.loads(str(content[_STATE]))
                    arrays = [content[_key(index)] for index in range(len(content.files) - 1)]
            except UNREADABLE:
                continue
            self._check(path, state["identity"])
            if len(arrays) != len(_variables(model)):
                continue  # a damaged directory lists fewer
            for variable, array in zip(_variables(model), arrays, strict=True):
                variable.assign(array)
            return [EpochReport(**report) for report in state["history"]]
        return []

    def _check(self, path: Path, identity: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(self._identity))
        for name, value in wanted.items():
            if identity.get(name) != value:
                raise UserError(
                    f"{path} must be of the same training, and has {name} {identity.get(name)} instead of {value}; "
                    f"remove {self._folder} to begin anew."
                )


def _files(folder: Path) -> list[Path]:
    """Its checkpoints, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


def _key(index: int) -> str:
    return f"variable_{index:05}"
