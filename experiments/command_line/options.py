"""Every option of every entry point, declared once: its name, type, default and help.

Flags, MLproject parameters and configuration fields share their names; tests/test_surface.py freezes them.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from experiments.command_line.passwords import hide
from experiments.studies.objectives import OBJECTIVES
from experiments.studies.selection import BEST, RULES
from seg.config import TrainConfig
from seg.errors import UserError

AUTO = "auto"  # the value of options that follow the model
PRESET = "preset"  # the default of options whose value the preset decides


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option.

    Attributes:
        type: turns the text into the value; raises ValueError on text that is none.
        default: its value when the option is not given.
        help: what it does, with its unit.
        choices: the only values, when there are few.
    """

    type: Callable[[str], Any]
    default: Any
    help: str
    choices: tuple[str, ...] | None = None


def margin(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


def threshold(text: str) -> float | None:
    """None for `tuned`, else the number."""
    if text == "tuned":
        return None
    value = float(text)
    if not 0 < value < 1:
        raise ValueError
    return value


def int_or_auto(text: str) -> int | str:
    """A whole number, or `auto`."""
    return text if text == AUTO else int(text)


def port(text: str) -> int:
    """A TCP port."""
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError
    return value


_RUNNER = {
    "data": Option(type=str, default="demo", help="folder with a COCO export, or demo: a generated dataset"),
    "categories": Option(type=str, default="all", help="categories that are foreground: all, or names with commas"),
    "classes": Option(
        type=str,
        default="binary",
        help="classes of the mask: binary, foreground alone; all, each category that has annotations; or names with "
        "commas, the rest being background",
    ),
    "on_bad": Option(
        type=str,
        default="fail",
        choices=("fail", "skip"),
        help="broken images and annotations: fail with the full list, or skip the images that have them",
    ),
    "crowds": Option(
        type=str,
        default="ignore",
        choices=("ignore", "foreground"),
        help="crowd regions: ignore, no loss and no score there; or foreground, as always where all annotations are "
        "crowds",
    ),
    "overlaps": Option(
        type=str,
        default="union",
        choices=("union", "refuse"),
        help="objects that share pixels: union, these are foreground once; refuse, a broken rule that on_bad treats",
    ),
    "exif": Option(
        type=str,
        default="ignore",
        choices=("ignore", "rotate"),
        help="the rotation that EXIF data asks for: ignore it, or rotate the image",
    ),
    "split": Option(
        type=str,
        default="official",
        help="how the images are divided: official, the export's own way; grouped, no group on two sides; kfold:K/I, "
        "fold I of K is test and the next one val",
    ),
    "group_pattern": Option(
        type=str,
        default="",
        help="regular expression on the file names whose first group is an image's group, for split=grouped and "
        "kfold, and for the audit of any split; empty: groups are found from numbered names and likeness",
    ),
    "group_column": Option(
        type=str,
        default="",
        help="instead of group_pattern: key of the images in the JSON that names their group, such as patient or "
        "extra.patient",
    ),
    "split_seed": Option(
        type=int, default=0, help="seed of the assignment of groups to splits, for split=grouped and kfold"
    ),
    "additional": Option(
        type=str,
        default="",
        help="folder of corrections, as app writes them, whose images join the training images; empty: none",
    ),
    "workspace": Option(type=str, default="workspace", help="folder of converted datasets and trial folders"),
    "preset": Option(
        type=str,
        default="quick",
        choices=("quick", "seed", "recipe"),
        help="what is not given: quick, minutes on two CPU cores; seed, 256 pixels and 64 filters, as the project "
        "began; recipe, the best that we know (docs/results.md), an hour and more",
    ),
    "sampler": Option(
        type=str,
        default="grid",
        choices=("grid", "tpe"),
        help="grid: every loss with every width, equal budgets; tpe: search them with learning_rate, depth and "
        "augmentation, pruning bad trials",
    ),
    "objective": Option(
        type=str,
        default="dice",
        choices=tuple(OBJECTIVES),
        help="what trials are judged by: dice, on validation; dice,latency, against each other, without pruning: "
        "latency is the milliseconds of one image",
    ),
    "select": Option(
        type=str,
        default=BEST,
        choices=RULES,
        help="which trial is scored on test and registered: best, the best trial of the best arm; smallest-within-1se, "
        "the arm with the fewest multiply-adds within one standard error of the best arm's mean validation Dice",
    ),
    "trials": Option(
        type=int,
        default=0,
        help="trials that the study shall have in total, earlier calls included; 0: each arm of the grid once",
    ),
    "arms": Option(
        type=str,
        default="",
        help="further options to compare, such as 'depth=3,4;augmentation=none,full'",
    ),
    "design": Option(
        type=str,
        default="factorial",
        choices=("factorial", "one_at_a_time"),
        help="factorial: every combination of the values is an arm; one_at_a_time, an ablation: the first value of "
        "each is the base, every other value an arm that differs from it in that alone",
    ),
    "seeds": Option(
        type=int,
        default=3,
        help="trainings of every arm, each with another seed, the same ones for all; from `seed` on",
    ),
    "study": Option(type=str, default="unet", help="name of the study; the same name goes on where it stopped"),
    "executor": Option(
        type=str,
        default="local",
        choices=("local", "ray"),
        help="where trials run: local, on this machine; ray, on the nodes of a Ray cluster (extra ray)",
    ),
    "ray_address": Option(
        type=str,
        default=AUTO,
        help="for executor=ray: HOST:PORT of the cluster; auto: RAY_ADDRESS, or the cluster that runs on this machine",
    ),
    "slots": Option(
        type=int_or_auto,
        default=1,
        help="trials at the same time, each on its equal share of GPUs and CPU cores; auto: as many as gpus_per_trial "
        "leaves room for, else as many as train most images per second, which is measured once per machine",
    ),
    "gpus_per_trial": Option(
        type=int_or_auto,
        default=AUTO,
        help="GPUs of one machine for each trial; 0: none, a share of the CPU cores; auto: a share of all GPUs",
    ),
    "storage": Option(type=str, default="sqlite:///optuna.db", help="URL of Optuna's database"),
    "retries": Option(
        type=int,
        default=2,
        help="further attempts, each from the last checkpoint, of a trial whose process dies or takes too long",
    ),
    "trial_timeout": Option(
        type=float, default=0.0, help="seconds that one attempt of a trial may take; 0: as long as it likes"
    ),
    "model_name": Option(type=str, default="seg-unet", help="name of the registered model"),
    "model": Option(
        type=str,
        default="models:/seg-unet@champion",
        help="a registered model (models:/NAME@ALIAS, models:/NAME/VERSION) or the id of a run",
    ),
    "run": Option(
        type=str,
        default="",
        help="id of the MLflow run to train again: of train, of a trial, or of a study, which means its best trial",
    ),
    "dataset_split": Option(
        type=str,
        default="auto",
        help="how the images are divided, as `split` has it in the other entry points; auto: as the model was trained, "
        "with that run's group_pattern, group_column and split_seed",
    ),
    "threshold": Option(
        type=threshold,
        default="tuned",
        help="probability, between 0 and 1, from which a pixel is foreground; tuned: as validation had it",
    ),
    "images": Option(type=str, default="", help="image files, folders or patterns such as 'scans/*.png'"),
    "examples": Option(
        type=str,
        default="",
        help="image files, a folder or a pattern to pick examples from; empty: the image that travels with the model",
    ),
    "corrections": Option(type=str, default="corrections", help="folder of the corrections that are saved"),
    "margin": Option(
        type=margin, default=0.01, help="loss of mean test Dice that the paired 95 % interval must exclude, 0 to 1"
    ),
    "force": Option(
        type=str,
        default="no",
        choices=("no", "yes"),
        help="yes: promote whatever the comparison says; it is recorded on the version",
    ),
    "rollback": Option(
        type=str,
        default="no",
        choices=("no", "yes"),
        help="yes: instead of promoting, put the champion's alias back on the version that had it before",
    ),
    "output": Option(type=str, default="predictions", help="folder for masks, overlays and COCO results"),
    "tta": Option(
        type=str,
        default="auto",
        choices=("auto", "none", "flips", "square"),
        help="test-time augmentation: none; flips, the mean of an image and its three mirror images; square, of these "
        "and their quarter turns, in eight times the time; auto: as the model was scored",
    ),
    "largest_component": Option(
        type=str,
        default="auto",
        choices=("auto", "no", "yes"),
        help="yes: of each class of a mask only the largest connected component stays; no: all of it; auto: as the "
        "model was scored",
    ),
    "segmentation": Option(
        type=str,
        default="rle",
        choices=("rle", "polygon"),
        help="how masks are written to COCO: run lengths, or outlines along the edges of pixels",
    ),
    "host": Option(
        type=str, default="127.0.0.1", help="address to listen on; any other than this machine's own is open to others"
    ),
    "port": Option(type=port, default=5001, help="TCP port to listen on; 0: any free one, which is printed"),
    "max_upload": Option(type=int, default=32, help="MiB that one upload may have; base64 adds a third"),
    "repair": Option(
        type=str,
        default="no",
        choices=("no", "yes"),
        help="yes: repair what can be repaired safely, and name the rest; refused while a driver holds the study",
    ),
    "allow_errors": Option(
        type=str,
        default="no",
        choices=("no", "yes"),
        help="no: exit with code 3 when the audit finds an error; yes: exit with 0",
    ),
    "mode": Option(
        type=str,
        default="short",
        choices=("short", "full", "tiny"),
        help="short: under five minutes; full: every part and size; tiny: only to see it run, the numbers mean nothing",
    ),
    "parts": Option(
        type=str,
        default="all",
        help="what to measure: all of the mode's parts, or some of convert, pipeline, training_step, study, quality, "
        "inference and scaling, with commas",
    ),
    "cases": Option(type=str, default="", help="only the cases of these parts whose names hold this text; empty: all"),
    "rounds": Option(type=int, default=5, help="times that each contender measures, in turn"),
    "threads": Option(type=int, default=0, help="cores that each contender may use; 0: all of this machine's"),
    "clock": Option(
        type=str,
        default="wall",
        choices=("wall", "processor"),
        help="processor: the processor's time that a contender takes, for a machine that has other work; only with "
        "threads=1, and not for pipeline, quality and scaling",
    ),
}

FIELDS = {
    field.name: Option(
        type=type(field.default),
        default=field.default,
        help=field.metadata["help"],
        choices=field.metadata["choices"],
    )
    for field in dataclasses.fields(TrainConfig)
}

OPTIONS: Mapping[str, Option] = _RUNNER | FIELDS


class _Parser(argparse.ArgumentParser):
    """A parser that states a mistake in one line and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {hide(message)}; see {self.prog} --help.", file=sys.stderr)
        sys.exit(2)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines, and shows a flag's choices in its help rather than twice."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=110)


def parser(verb: str, description: str, names: Sequence[str], **overrides: Option) -> argparse.ArgumentParser:
    """The parser of one entry point.

    Args:
        verb: the entry point's name.
        description: shown above the options.
        names: which options it takes, in the order of `--help`.
        overrides: options that differ here, such as a comma list where elsewhere stands one value.
    """
    built = _Parser(
        prog=f"python -m experiments.{verb}",
        description=description,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    for name in names:
        option = overrides.get(name, OPTIONS[name])
        flags = [f"--{name}"] + ([f"--{name.replace('_', '-')}"] if "_" in name else [])
        default = repr(option.default) if option.default == "" else option.default
        built.add_argument(
            *flags,
            dest=name,
            type=option.type,
            default=option.default,
            choices=option.choices,
            metavar="|".join(option.choices) if option.choices else option.type.__name__.upper().replace("STR", "TEXT"),
            help=f"{option.help} (default: {default})".replace("%", "%%"),
        )
    return built


def train_config(values: argparse.Namespace, **changes: Any) -> TrainConfig:
    """The configuration that the parsed options describe; `changes` replace some of them.

    Raises:
        UserError: if there is none such, or a file that it names is missing.
    """
    given = {name: getattr(values, name) for name in FIELDS if hasattr(values, name)}
    config = TrainConfig(**given | changes)
    weights = config.encoder_weights
    if weights not in ("none", "imagenet") and not Path(weights).is_file():
        raise UserError(f"encoder_weights must be a file that is there, got '{weights}'; give its absolute path.")
    return config
