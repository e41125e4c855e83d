"""`Environment`: the software and the machine that trained a model, kept with its run as environment.json.

Together with the run's parameters (the configuration) and its dataset (key and conversion settings), this is what it
takes to train again and to say why the outcome differs.
"""

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line.code_version import git_commit, loaded_code, uncommitted_changes
from seg.config import PRECISIONS
from seg.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

ENVIRONMENT = "environment.json"
PACKAGES = (  # what pyproject.toml pins; a test keeps them equal
    "tensorflow",
    "keras",
    "mlflow",
    "optuna",
    "pycocotools",
    "opencv-python-headless",
    "simplejpeg",
    "numpy",
    "h5py",
    "scipy",
    "matplotlib",
    "scikit-learn",
    "psutil",
    "threadpoolctl",
    "tqdm",
    "jinja2",
)
# An extra that changes no weight, and how fast the model answers that a trial leaves.
SERVING = ("openvino",)
# Variables that change which arithmetic TensorFlow, oneDNN or CUDA choose, or with how many threads.
FLAGS = (
    "CUDA_VISIBLE_DEVICES",
    "KERAS_BACKEND",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "TF_CUDNN_DETERMINISTIC",
    "TF_DETERMINISTIC_OPS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)
_VECTOR = re.compile(r"sse4|avx|fma|amx|neon|asimd|sve")
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What decides the outcome of a training beside its configuration and its data.

    Attributes:
        python: its version.
        packages: installed versions of `PACKAGES`, by name.
        system: operating system and architecture.
        cpu: its model, as the system names it.
        instructions: its vector instructions, sorted; libraries choose their arithmetic by them.
        cores: that the process may use.
        threads: of TensorFlow, `intra_op` and `inter_op`; 0: one per core.
        devices: that trained together, one per replica: `CPU`, or a GPU's name.
        flags: those of `FLAGS` that are set.
        git_commit: of the code, with `-dirty` when files differ from it; empty outside a repository.
        uncommitted: hash of what differs from the commit; empty where nothing does.
        code: hashes of this project's files that the training process had loaded, by path.
        precision: number format of the layers' arithmetic, which `precision=auto` leaves to the machine; empty where an
            older version did not record it.
    """

    python: str
    packages: Mapping[str, str]
    system: str
    cpu: str
    instructions: str
    cores: int
    threads: Mapping[str, int]
    devices: tuple[str, ...]
    flags: Mapping[str, str]
    git_commit: str
    uncommitted: str
    code: Mapping[str, str]
    precision: str = ""

    @classmethod
    def here(cls, strategy: "tf.distribute.Strategy", precision: str) -> "Environment":
        """Of this process, in which TensorFlow runs, with the devices of `strategy`, and the format that it used."""
        from seg.training.devices import device_names, thread_counts

        cpu, instructions = _processor()
        return cls(
            python=platform.python_version(),
            packages=installed_versions(),
            system=f"{platform.system()} {platform.machine()}",
            cpu=cpu,
            instructions=instructions,
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            threads=thread_counts(),
            devices=device_names(strategy),
            flags={name: os.environ[name] for name in FLAGS if name in os.environ},
            git_commit=git_commit() or "",
            uncommitted=uncommitted_changes(),
            code=loaded_code(),
            precision=precision,
        )

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, text: str) -> "Environment":
        """What `as_json` wrote.

        Raises:
            UserError: if the text is anything else.
        """
        try:
            content: Any = json.loads(text)
        except (ValueError, RecursionError):
            raise _damaged("no JSON") from None
        if not isinstance(content, dict):
            raise _damaged("no object")
        found: dict[str, Any] = {}
        for field in fields(cls):
            value = content.get(field.name, "" if field.name == "precision" else None)
            if not _READABLE[field.name](value):
                raise _damaged(f"{field.name} {str(value)[:60]!r}")
            found[field.name] = tuple(value) if isinstance(value, list) else value
        return cls(**found)


def installed_versions() -> dict[str, str]:
    """The installed versions of `PACKAGES` and `SERVING`, by name."""
    versions = {}
    for package in PACKAGES + SERVING:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # another build of it, such as OpenCV's own wheel
            continue
    return versions


def _processor() -> tuple[str, str]:
    """The CPU's model and its vector instructions; the second is empty where the system does not tell."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), ""
    known: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        known.setdefault(name.strip(), value.strip())
    words = [known.get("model name") or platform.processor() or platform.machine()]
    # A virtual machine may hide the model's name: the numbers still tell generations apart.
    words += [f"{name} {known[name]}" for name in ("cpu family", "model", "stepping") if name in known]
    flags = (known.get("flags") or known.get("Features") or "").split()
    return ", ".join(words), " ".join(sorted(flag for flag in flags if _VECTOR.search(flag)))


def _damaged(what: str) -> UserError:
    return UserError(
        f"{ENVIRONMENT} of the run must be as training wrote it, got {what}; choose a run whose artifacts are whole."
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_count(item) for item in value.values())


def _is_precision(value: Any) -> bool:
    return value in ("", *PRECISIONS)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_READABLE = {
    "python": _is_text,
    "packages": _is_texts,
    "system": _is_text,
    "cpu": _is_text,
    "instructions": _is_text,
    "cores": _is_count,
    "threads": _is_counts,
    "devices": _is_names,
    "flags": _is_texts,
    "git_commit": _is_text,
    "uncommitted": _is_text,
    "code": _is_texts,
    "precision": _is_precision,
}
