"""What a study belongs to, and the refusal of a command that belongs to something else."""

import re
from dataclasses import dataclass
from typing import Any

import optuna

from experiments.studies.objectives import OBJECTIVES, objective_of
from experiments.studies.search import DESIGNS, SearchSpace
from seg.config import TrainConfig
from seg.errors import UserError

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class StudyIdentity:
    """What a study belongs to. All its trials share it; a command that differs needs another study.

    Attributes:
        study: the name; also a folder's name.
        dataset_key: `Manifest.key`.
        dataset_name: `Manifest.name`, for people.
        split: `Manifest.split`.
        space: what is searched and how.
    """

    study: str
    dataset_key: str
    dataset_name: str
    split: str
    space: SearchSpace

    def __post_init__(self) -> None:
        if not _STUDY_NAME.fullmatch(self.study):
            raise UserError(
                "study must be made of letters, digits, '-', '_' and '.', begin with a letter or digit and have at "
                f"most 100 characters, got '{self.study}'."
            )


def check_identity(study: optuna.Study, identity: StudyIdentity) -> None:
    """Compares with what the study was made for; a new study is given its identity."""
    wanted: dict[str, Any] = {
        "dataset_key": identity.dataset_key,
        "dataset_name": identity.dataset_name,
        "split": identity.split,
        "sampler": identity.space.sampler,
        "space": identity.space.as_dict(),
    }
    stored = study.user_attrs
    if "space" not in stored:  # written last: a driver that died before has asked no trial
        if study.get_trials(deepcopy=False) or len(study.directions) != len(OBJECTIVES[identity.space.objective]):
            raise UserError(f"study '{identity.study}' was not made by this program; use another study name.")
        for name, value in wanted.items():
            study.set_user_attr(name, value)
        return
    if stored["dataset_key"] != identity.dataset_key:
        raise UserError(
            f"study '{identity.study}' belongs to another dataset, '{stored['dataset_name']}' "
            f"({stored['dataset_key'][:12]}), and not to '{identity.dataset_name}' ({identity.dataset_key[:12]}); "
            "use another study name."
        )
    # A study from before a field was there was trained with the field's default.
    before = (
        TrainConfig().as_dict()
        | {"design": DESIGNS[0]}
        | stored["space"]
        | {"split": stored["split"], "sampler": stored["sampler"]}
    )
    now = (
        {"design": identity.space.design}
        | identity.space.as_dict()
        | {"split": identity.split, "sampler": identity.space.sampler}
    )
    before["objective"], now["objective"] = objective_of(len(study.directions)), identity.space.objective
    for name in now:
        if before.get(name) != now[name]:
            raise UserError(
                f"study '{identity.study}' was started with {name}={_text(before.get(name))}, got {_text(now[name])}; "
                "its trials would not be comparable: use another study name."
            )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
