"""How the images were divided when a model was trained, read from the tags of its run."""

import argparse

from experiments.command_line.options import AUTO
from experiments.registry.models import FetchedModel
from experiments.tracking.run_description import DIVISION_TAGS
from experiments.tracking.tracker import Tracker
from seg.data.splits import OFFICIAL, DivisionSettings
from seg.errors import UserError


def trained_division(values: argparse.Namespace, model: FetchedModel, tracker: Tracker) -> DivisionSettings:
    """The split of a model's run and, where it is not the official one, its groups and seed.

    Args:
        values: the parsed options; with `dataset_split=auto` they must not name groups or a seed themselves.
        model: the fetched model.
        tracker: of the store that has its run.

    Raises:
        UserError: if options contradict, the run is gone, or it does not say how its images were divided.
    """
    for name in DIVISION_TAGS:
        if value := getattr(values, name):
            raise UserError(
                f"{name} must not be given with dataset_split={AUTO}, which takes the run's, got '{value}'; "
                "give dataset_split too."
            )
    tags = tracker.tags(model.run_id) if model.run_id else {}
    split = tags.get("split")
    if split is None or (split != OFFICIAL and not tags.get("split_seed", "").isdecimal()):
        known = f"run {model.run_id} does not say it" if model.run_id else "it has no run"
        raise UserError(
            f"dataset_split={AUTO} needs to know how the model's images were divided, and {known}; "
            "give dataset_split, group_pattern or group_column, and split_seed."
        )
    if split == OFFICIAL:
        return DivisionSettings()
    return DivisionSettings(split, tags.get("group_pattern", ""), tags.get("group_column", ""), int(tags["split_seed"]))
