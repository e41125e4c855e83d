"""Which GPUs each slot of a machine gets."""

import subprocess
from collections.abc import Mapping

from seg.errors import UserError


def gpus_per_slot(slots: int, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Deals the GPUs that the driver sees out to the slots, as CUDA_VISIBLE_DEVICES for each.

    Returns:
        One value per slot; empty if there is no GPU, or one slot, whose jobs may see what the driver sees.

    Raises:
        UserError: if there are GPUs, but fewer than slots.
    """
    gpus = visible_gpus(environment)
    if slots == 1 or not gpus:
        return ()
    if len(gpus) < slots:
        raise UserError(f"slots must be at most the number of GPUs, {len(gpus)}, got {slots}; use {len(gpus)}.")
    return tuple(",".join(gpus[slot::slots]) for slot in range(slots))


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
