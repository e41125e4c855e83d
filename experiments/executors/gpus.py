"""Which GPUs each slot of a machine gets."""

import subprocess
from collections.abc import Mapping, Sequence


def gpu_groups(gpus: Sequence[str], slots: int, each: int) -> tuple[str, ...]:
    """Deals GPUs out to slots, equally many to each, as CUDA_VISIBLE_DEVICES for each; empty if there is none."""
    if not gpus:
        return ()
    return tuple(",".join(gpus[slot::slots][:each]) for slot in range(slots))


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, else all that the NVIDIA driver lists."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        names = [name.strip() for name in environment["CUDA_VISIBLE_DEVICES"].split(",")]
        hidden = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:hidden]  # CUDA ignores what follows an invalid entry
    # By UUID: nvidia-smi and CUDA may number the same GPUs differently.
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.splitlines() if line.strip()]
