"""What machine a benchmark ran on, with which versions, and what else it had to do."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.executors.gpus import visible_gpus

PACKAGES = (
    "tensorflow",
    "keras",
    "mlflow",
    "optuna",
    "numpy",
    "opencv-python-headless",
    "simplejpeg",
    "torch",
    "segmentation_models_pytorch",
    "jax",
    "onnxruntime",
    "openvino",
)
_FORMATS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def computes_in_bfloat16() -> bool:
    """Whether the processor has instructions for that format."""
    return any("bf16" in name for name in _instructions(_cpu()))


def describe(threads: int) -> dict[str, Any]:
    """Machine, versions and threads, for people and for the JSON."""
    cpu = _cpu()
    return {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "instructions": _instructions(cpu),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpus": _gpus(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _gpus() -> list[str]:
    """The product name of each GPU that the contenders see."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id"]
    gpus = visible_gpus(os.environ)
    try:
        return [
            subprocess.run([*command, gpu], capture_output=True, text=True, timeout=60).stdout.strip() for gpu in gpus
        ]
    except (OSError, subprocess.SubprocessError):
        return gpus


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _instructions(cpu: dict[str, str]) -> list[str]:
    return [name for name in _FORMATS if name in cpu.get("flags", "").split()]


def _cpu() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
