"""What `precision=auto` means on this machine: the number format that is known to be the fastest.

Measured with a U-Net of 4 levels (docs/performance.md): on CPUs that compute in bfloat16, it is faster from 16 filters
on, and from 8 on where they multiply matrices in it (AMX). GPUs compute in it from compute capability 8 on. What was
not measured, narrower networks, other processors and encoders of keras.applications on a CPU, stays in float32.
"""

from dataclasses import replace
from pathlib import Path

import tensorflow as tf

from seg.config import TrainConfig

AUTO, EXACT, REDUCED = "auto", "float32", "mixed_bfloat16"
_LEAST_FILTERS = {"amx_bf16": 8, "avx512_bf16": 16}  # by the CPU's instructions
_CAPABILITY = (8, 0)
_CPUINFO = Path("/proc/cpuinfo")


def with_chosen_precision(config: TrainConfig) -> TrainConfig:
    """The configuration with a number format in place of `auto`; any other stays as it is."""
    if config.precision != AUTO:
        return config
    gpus = [] if config.devices.startswith("cpu") else tf.config.list_physical_devices("GPU")
    if gpus:
        details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
        reduced = all(detail.get("compute_capability", (0, 0)) >= _CAPABILITY for detail in details)
    else:
        instructions = _instructions(_CPUINFO)
        least = [filters for name, filters in _LEAST_FILTERS.items() if name in instructions]
        reduced = config.encoder == "none" and bool(least) and config.filters >= min(least)
    return replace(config, precision=REDUCED if reduced else EXACT)


def _instructions(cpuinfo: Path) -> set[str]:
    """The words with which Linux describes the processor; none on other systems."""
    try:
        return set(cpuinfo.read_text(encoding="utf-8").split())
    except OSError:
        return set()
