"""What a run says of itself in MLflow: tags, dataset and note, made from this project's objects."""

import getpass
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_USER

from experiments.command_line.code_version import git_commit
from experiments.tracking.operations import now
from seg.data.manifest import Manifest

DIVISION_TAGS = ("group_pattern", "group_column", "split_seed")  # beside `split`, where it is not the official one
_DIGEST_LENGTH = 36  # what MLflow's database holds


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What MLflow holds of a run, as text that anybody may have edited.

    Attributes:
        run_id: its id.
        status: MLflow's.
        params, tags: by name.
        dataset: name of the dataset that it trained on; empty where it has none.
        profile: what `dataset_input` wrote about that dataset, JSON; empty where there is none.
    """

    run_id: str
    status: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    dataset: str
    profile: str


def as_text(value: Any) -> str:
    """Lists as a person types them on the command line: `bce,dice`."""
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        return ",".join(str(item) for item in value)
    return str(value)


def run_contents(
    name: str, tags: Mapping[str, str], parameters: Mapping[str, Any], manifest: Manifest
) -> dict[str, Any]:
    """What a run is made with now, as an `Operation` has it."""
    params = {parameter: as_text(value) for parameter, value in parameters.items()}
    tags = origin_tags() | dict(tags)
    return {"name": name, "tags": tags, "start": now(), "params": params, "dataset": dataset_input(manifest)}


def common_tags(manifest: Manifest) -> dict[str, str]:
    tags = {"dataset_key": manifest.key, "split": manifest.split}
    tags |= {name: str(manifest.settings[name]) for name in DIVISION_TAGS if manifest.settings.get(name, "") != ""}
    if "classes" in manifest.settings:
        tags["classes"] = ",".join(manifest.classes)
    if commit := git_commit():
        tags["git_commit"] = commit
    return tags


def origin_tags() -> dict[str, str]:
    """Who started a run with what. An adopted run keeps what `mlflow run` noted."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user needs no name
        user = f"uid {os.getuid()}"
    return {MLFLOW_USER: user, MLFLOW_SOURCE_NAME: Path(sys.argv[0]).name, MLFLOW_SOURCE_TYPE: "LOCAL"}


def dataset_input(manifest: Manifest) -> dict[str, Any]:
    """The dataset by name and key, and how it was converted: `reproduce` makes it again from that.

    Returns:
        the fields of MLflow's `Dataset` and the tags of its `DatasetInput`.

    Built by hand: MLflow's own helpers read the data, and digest a part of it.
    """
    splits = {
        name: {"examples": split.examples, "empty": split.empty, "key": split.key}
        for name, split in manifest.splits.items()
    }
    described = {"image_size": manifest.image_size, "split": manifest.split, "settings": manifest.settings}
    dataset = {
        "name": manifest.name,
        "digest": manifest.key[:_DIGEST_LENGTH],
        "source_type": "local",
        "source": json.dumps({"uri": manifest.folder.absolute().as_uri()}),
        "profile": json.dumps(described | splits),
    }
    return {"dataset": dataset, "tags": {MLFLOW_DATASET_CONTEXT: "training"}}


def study_note(study: str, parameters: Mapping[str, Any], manifest: Manifest) -> str:
    # The settings as they are in effect: among the parameters, `mlflow run` may have noted `image_size=preset`.
    settings = ", ".join(f"{name} {as_text(value)}" for name, value in parameters.items())
    counts = "\n".join(f"| {name} | {split.examples} | {split.empty} |" for name, split in manifest.splits.items())
    return (
        f"### Study `{study}`\n\nDataset **{manifest.name}** (`{manifest.key}`), split *{manifest.split}*, "
        f"{manifest.image_size}×{manifest.image_size} pixels.\n\n"
        f"Settings: {settings}.\n\n"
        f"| split | images | without foreground |\n|---|---|---|\n{counts}\n"
    )
