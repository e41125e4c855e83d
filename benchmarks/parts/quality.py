"""How long it takes to reach a validation Dice, beside the seed's recipe and segmentation_models.pytorch.

From the start of training (after the libraries are imported and before the model is built) to the end of the epoch
that reaches it. A contender that has not reached it within `LIMITS` times our time is stopped there, in the middle of
an epoch: its time is then a lower bound, and its note says so. A short benchmark asks for less, at half the size.
"""

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Contender, Target
from benchmarks.machine import computes_in_bfloat16
from benchmarks.parts.training_step import BATCH
from benchmarks.setting import Setting

OURS, SEED, SMP = "seg", "the seed's recipe", "segmentation_models.pytorch"
DICE, SHORT_DICE, TINY_DICE = 0.65, 0.5, 0.01
LIMITS = {SEED: 3.2, SMP: 1.6}  # times our time: enough to show that it is three times, and that it is longer
_LONGEST, _LONGEST_SHORT = 1500, 60  # seconds of anybody; of ours in a short benchmark
_TIME = "time_to_quality.txt"  # of ours, for the others' limit


def cases(setting: Setting) -> list[Case]:
    size = 128 if setting.full else 64 if setting.short else 32
    dice = DICE if setting.full else SHORT_DICE if setting.short else TINY_DICE
    reduced = computes_in_bfloat16()
    settings = {
        "dataset": setting.dataset(size),
        "dice": dice,
        "longest": _LONGEST if setting.full else _LONGEST_SHORT,
        "reduced": reduced,
    }
    recipe = {
        "image_size": size,
        "filters": 2 if setting.tiny else 16,
        "loss": "dice",
        "augmentation": "flip",
        "precision": "mixed_bfloat16" if reduced else "float32",
        "learning_rate": 2e-3,
        "normalization": "batch",
    }
    seed = {"image_size": size, "filters": 2 if setting.tiny else 64}
    peers = ("torch", "segmentation_models_pytorch")
    contenders = (
        Contender(OURS, f"{__name__}:ours", settings | {"config": recipe, "first": True}),
        Contender(SEED, f"{__name__}:ours", settings | {"config": seed, "limit": LIMITS[SEED]}),
        Contender(SMP, f"{__name__}:torch", settings | {"limit": LIMITS[SMP]}, peers),
    )
    targets = (
        Target("3 times as fast as the seed's recipe", OURS, (SEED,), 3.0),
        Target("faster than segmentation_models.pytorch", OURS, (SMP,), 1.0),
    )
    name = f"wall time to validation Dice {dice}, {size} px"
    return [Case("quality", name, "s", contenders, False, 1, targets)]


def limit(settings: dict[str, Any]) -> float:
    """Seconds that a contender may take: ours measures first."""
    if settings.get("first"):
        return float(settings["longest"])
    place = Path(settings["scratch"]) / _TIME
    if not place.exists():
        raise RuntimeError(f"{OURS} did not get there, so there is no time to compare with")
    return min(settings["limit"] * float(place.read_text(encoding="utf-8")), _LONGEST)


class _OutOfTime(Exception):
    """The limit has passed."""


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """What is within ends after so many seconds, wherever it is."""

    def stop(*ignored: Any) -> None:
        raise _OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    with suppress(_OutOfTime):
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def found(seconds: float, dice: float, settings: dict[str, Any]) -> dict[str, Any]:
    reached = dice >= settings["dice"]
    if settings.get("first"):
        if not reached:
            raise RuntimeError(f"Dice was {dice:.3f} after {seconds:.0f} s")
        (Path(settings["scratch"]) / _TIME).write_text(str(seconds), encoding="utf-8")
    note = f"Dice {dice:.3f}" if reached else f"stopped there at Dice {dice:.3f}: a lower bound"
    return {"value": seconds, "note": note, "dice": dice}


def ours(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """`seg.training.fit` with a configuration."""
    from seg.start import start_tensorflow

    start_tensorflow()
    from seg.config import TrainConfig
    from seg.data.manifest import Manifest
    from seg.training.devices import make_strategy
    from seg.training.fit import fit
    from seg.training.result import EpochReport

    config = TrainConfig(**settings["config"], epochs=10**4, patience=0)
    manifest = Manifest.load(Path(settings["dataset"]))

    def measure() -> dict[str, Any]:
        longest = limit(settings)
        scores = [0.0]

        def on_epoch(report: EpochReport) -> bool:
            scores.append(report.val_dice)
            return report.val_dice < settings["dice"]

        folder = Path(tempfile.mkdtemp(dir=settings["scratch"]))
        started = time.perf_counter()
        with stopped_after(longest):
            fit(config, manifest, make_strategy(config.devices), folder, on_epoch)
        return found(time.perf_counter() - started, max(scores), settings)

    return measure


def torch(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """segmentation_models.pytorch's U-Net in a plain loop: channels-last, Adam, batch 10, flips, BCE and Dice.

    Its number format is that of our recipe.
    """
    import numpy as np
    import torch

    from benchmarks.peers import torch_unet

    records = {
        split: np.load(Path(settings["dataset"]) / f"{split}.npy", allow_pickle=False) for split in ("train", "val")
    }
    device = torch_unet.device()
    parts = {split: torch.from_numpy(part).permute(0, 3, 1, 2).to(device) for split, part in records.items()}

    def batch(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = part[:, :3].float().contiguous(memory_format=torch.channels_last)
        return images / 255, (part[:, 3:] == 1).float()

    def validate(network: torch.nn.Module) -> float:
        scores = []
        with torch.inference_mode():
            for part in parts["val"].split(BATCH):
                images, masks = batch(part)
                with torch.autocast(device.type, torch.bfloat16, enabled=settings["reduced"]):
                    predicted = (network(images) >= 0).float()
                both = (masks * predicted).sum((1, 2, 3))
                total = masks.sum((1, 2, 3)) + predicted.sum((1, 2, 3))
                scores.append(torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0))
        return float(torch.cat(scores).mean())

    def train(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        network.train()
        for chosen in torch.randperm(len(parts["train"])).split(BATCH):
            if len(chosen) < BATCH:
                continue
            part = parts["train"][chosen.to(device)]
            for axis in (2, 3):
                turned = torch.rand(len(part), device=device) < 0.5
                part = torch.where(turned[:, None, None, None], part.flip(axis), part)
            images, masks = batch(part)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings["reduced"]):
                logits = network(images)
            torch_unet.bce_dice(logits, masks).backward()
            optimizer.step()
        network.eval()

    def measure() -> dict[str, Any]:
        longest = limit(settings)
        scores = [0.0]
        torch.manual_seed(0)
        started = time.perf_counter()
        with stopped_after(longest):
            network = torch_unet.segmentation_models_unet().to(device, memory_format=torch.channels_last)
            optimizer = torch.optim.Adam(network.parameters(), 1e-3)
            while max(scores) < settings["dice"]:
                train(network, optimizer)
                scores.append(validate(network))
        return found(time.perf_counter() - started, max(scores), settings)

    return measure
