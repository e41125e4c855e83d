"""How fast the input pipeline is, beside the fastest training step and a plain PyTorch DataLoader.

The work of every contender: shuffled batches of 10 with the augmentation `full` (flips; rotation, zoom and shift;
brightness and contrast) as float32. `cold`: the records are read from a file that the system's cache was told to
forget. What `tf.data` made ahead before the clock started is taken first and does not count.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Contender, Target
from benchmarks.parts.training_step import BATCH, noise_dataset, step_settings
from benchmarks.setting import Setting

MEMORY, FILE, COLD, TORCH, STEP = "seg", "seg, from file", "seg, cold", "PyTorch DataLoader", "fastest training step"


def cases(setting: Setting) -> list[Case]:
    size = 32 if setting.tiny else 128
    images = 40 if setting.tiny else 1000 if setting.short else 2000
    settings = {"image_size": size, "images": images, "threads": setting.threads}
    contenders = (
        Contender(MEMORY, f"{__name__}:ours", settings | {"cache": "memory"}),
        Contender(FILE, f"{__name__}:ours", settings | {"cache": "file"}),
        *(() if setting.short else (Contender(COLD, f"{__name__}:ours", settings | {"cache": "file", "cold": True}),)),
        Contender(TORCH, f"{__name__}:torch", settings, ("torch",)),
        Contender(STEP, "benchmarks.parts.training_step:ours", step_settings(setting, 8, size, 20)),
    )
    targets = (
        Target("5 times the fastest training step (filters 8)", MEMORY, (STEP,), 5.0),
        Target("faster than a plain DataLoader", MEMORY, (TORCH,), 1.0),
    )
    rounds = setting.rounds
    speed = Case("pipeline", f"augmented images, {size} px", "images/s", contenders, rounds=rounds, targets=targets)
    if setting.short:
        return [speed]
    few, many = (40, 160) if setting.tiny else (2000, 20000)
    growing = tuple(
        Contender(f"{count} images", f"{__name__}:memory", settings | {"cache": "file", "images": count})
        for count in (many, few)
    )
    flat = Target("at most 10 % more memory for ten times the images", f"{many} images", (f"{few} images",), 1 / 1.1)
    memory = Case(
        "pipeline", f"memory beside the records, cache=file, {size} px", "MB", growing, False, rounds, (flat,)
    )
    return [speed, memory]


def ours(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Images per second of one pass over `training_dataset`."""
    from seg.start import start_tensorflow

    start_tensorflow()
    import tensorflow as tf

    from seg.config import TrainConfig
    from seg.data.pipeline import PARALLEL, PREFETCHED, training_dataset

    size, images = settings["image_size"], settings["images"]
    count = images // BATCH
    config = TrainConfig(image_size=size, batch_size=BATCH, cache=settings["cache"], augmentation="full", depth=3)

    def endless() -> Iterator[Any]:
        folder = Path(tempfile.mkdtemp(dir=settings["scratch"]))
        manifest = noise_dataset(folder, size, images)
        if settings.get("cold"):
            _forget(folder / "train.npy")
        return iter(training_dataset(manifest, config, BATCH))

    def take(batches: Iterator[Any], count: int) -> None:
        for images_and_masks in islice(batches, count):
            last = images_and_masks
        tf.reduce_sum(last[0]).numpy()

    kept = endless()

    def measure() -> dict[str, Any]:
        # The system forgets no page that a process has mapped: a cold file is one that was never read.
        batches = endless() if settings.get("cold") else kept
        take(batches, PARALLEL + PREFETCHED)
        started = time.perf_counter()
        take(batches, count)
        return {"value": count * BATCH / (time.perf_counter() - started)}

    measure()
    return measure


def _forget(path: Path) -> None:
    """Asks the system to drop a file from its cache."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def memory(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Memory of the process that is its own, not the mapped file's: that of the file the system may drop any time."""
    import psutil

    read = ours(settings)
    process = psutil.Process()

    def measure() -> dict[str, Any]:
        read()
        used = process.memory_info()
        return {"value": (used.rss - used.shared) / 1e6}

    return measure


def torch(settings: dict[str, Any]) -> Callable[[], float]:
    """A map-style dataset over the same records, with the same random changes, in one worker per core."""
    import math

    import numpy as np
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader, Dataset

    size, images = settings["image_size"], settings["images"]
    folder = Path(tempfile.mkdtemp(dir=settings["scratch"]))
    noise_dataset(folder, size, images)

    class Records(Dataset):
        def __init__(self) -> None:
            self.records = np.load(folder / "train.npy", allow_pickle=False)

        def __len__(self) -> int:
            return len(self.records)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            record = torch.from_numpy(self.records[index]).permute(2, 0, 1).float()
            left_right, up_down, rotation, zoom, right, down, brightness, contrast = torch.rand(8).mul(2).sub(1)
            if left_right < 0:
                record = record.flip(2)
            if up_down < 0:
                record = record.flip(1)
            angle, factor = rotation * math.radians(15), 1 + zoom * 0.1
            cosine, sine = torch.cos(angle) / factor, torch.sin(angle) / factor
            theta = torch.stack([cosine, -sine, right / 8, sine, cosine, down / 8]).reshape(1, 2, 3)
            grid = functional.affine_grid(theta, [1, 4, size, size], align_corners=False)
            moved = {
                mode: functional.grid_sample(part[None], grid, mode, "reflection", align_corners=False)[0]
                for mode, part in (("bilinear", record[:3]), ("nearest", record[3:]))
            }
            image = moved["bilinear"]
            mean = image.mean()
            image = (mean + (image - mean) * (1 + contrast * 0.2) + brightness * 25).round().clamp(0, 255)
            return image, moved["nearest"]

    loader = DataLoader(
        Records(),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=settings["threads"],
        persistent_workers=True,
        worker_init_fn=lambda worker: torch.set_num_threads(1),
    )
    count = images // BATCH
    for _ in loader:  # the workers start
        pass

    def measure() -> float:
        started = time.perf_counter()
        for _ in loader:
            pass
        return count * BATCH / (time.perf_counter() - started)

    return measure
