"""How fast a training step is: one U-Net (4 levels, batch normalisation, batch 10) in this project and its peers.

Ours goes through `seg.training.fit`, with the records of a dataset in memory; the time is that of an epoch's steps, as
`fit` itself reports it. The peers repeat one batch that lies in memory. Every contender has Adam and the loss
`bce_dice`. Keras compiles nothing with XLA on TensorFlow, where that is slower on a CPU.
"""

import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Contender, Target
from benchmarks.setting import Setting
from experiments.executors.gpus import visible_gpus

OURS, KERAS, JAX, TORCH, SMP = "seg", "Keras", "Keras on JAX", "PyTorch", "segmentation_models.pytorch"
BATCH = 10
GAIN = 1.1
_PEAK_SIDE = 2048


def cases(setting: Setting) -> list[Case]:
    if setting.tiny:
        grid = [(2, 32)]
    elif setting.full:
        grid = [(filters, size) for size in (128, 256) for filters in (8, 16, 32, 64)]
    else:
        grid = [(16, 128)]
    found = [
        _case(setting, filters, size, precision)
        for filters, size in grid
        for precision in (("float32",) if setting.tiny else ("float32", "mixed_bfloat16"))
    ]
    return [*found, _peak(setting)]


def _case(setting: Setting, filters: int, size: int, precision: str) -> Case:
    # About two seconds a measurement, of one step at least: 30 steps at filters 8, 128 px; 2 from 32, 256 px on.
    cost = (filters / 8) ** 1.6 * (size / 128) ** 2
    steps = max(2, round((30 if setting.full else 10) / cost))
    settings = step_settings(setting, filters, size, steps, precision)

    def contender(name: str, function: str, *needs: str, **more: Any) -> Contender:
        return Contender(name, f"{__name__}:{function}", settings | more, needs)

    contenders = [contender(OURS, "ours"), contender(KERAS, "keras"), contender(TORCH, "torch", "torch")]
    # Beyond, all of them together would not fit into memory; and compiling takes longer than a short benchmark has.
    if precision == "float32" and filters * size**2 <= 32 * 256**2 and not setting.short:
        # On a CPU each of its steps takes two to ten times as long.
        fewer = steps if visible_gpus(os.environ) else max(1, steps // 4)
        own = settings | {"jax": True, "steps": fewer}
        jax = Contender(JAX, f"{__name__}:keras", own, ("jax",), {"KERAS_BACKEND": "jax"})
        contenders.append(jax)
    peers = tuple(one.name for one in contenders[1:])
    if filters == 16 and size == 128 and not setting.short:
        contenders.append(contender(SMP, "torch", "torch", "segmentation_models_pytorch", smp=True))
    target = Target(f"{GAIN} times the best peer of the same precision", OURS, peers, GAIN)
    name = f"filters {filters}, {size} px, {precision}"
    return Case("training_step", name, "images/s", tuple(contenders), rounds=setting.rounds, targets=(target,))


def step_settings(
    setting: Setting, filters: int, image_size: int, steps: int, precision: str = "float32"
) -> dict[str, Any]:
    """What `ours` and its peers measure; the least of it where numbers mean nothing."""
    if setting.tiny:
        filters, image_size, steps = 2, 32, 2
    return {"filters": filters, "image_size": image_size, "steps": steps, "precision": precision}


def _peak(setting: Setting) -> Case:
    side = 64 if setting.tiny else _PEAK_SIDE
    contenders = tuple(
        Contender(name, f"{__name__}:matrix_product", {"type": name, "side": side}) for name in ("float32", "bfloat16")
    )
    return Case("training_step", f"matrix product, {side}×{side}", "GFLOP/s", contenders, rounds=setting.rounds)


def _batch(settings: dict[str, Any]) -> tuple[Any, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    shape = (BATCH, settings["image_size"], settings["image_size"])
    images = random.uniform(0, 255, (*shape, 3)).astype(np.float32)
    return images, random.integers(0, 2, (*shape, 1)).astype(np.float32)


def noise_dataset(folder: Path, image_size: int, examples: int) -> Any:
    """A converted dataset of noise, for measuring; two validation images."""
    import numpy as np

    from seg.data.manifest import Manifest, SplitSummary

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    counts = {"train": examples, "val": 2, "test": 2}
    for split, count in counts.items():
        shape = (count, image_size, image_size, 4)
        records = np.lib.format.open_memmap(folder / f"{split}.npy", mode="w+", dtype=np.uint8, shape=shape)
        for record in records:
            record[..., :3] = random.integers(0, 256, (image_size, image_size, 3), np.uint8)
            record[..., 3] = random.integers(0, 2, (image_size, image_size), np.uint8)
    summaries = {
        split: SplitSummary(examples=count, empty=0, foreground=0.5, key=split) for split, count in counts.items()
    }
    manifest = Manifest(
        folder=folder,
        key="noise",
        name="noise",
        image_size=image_size,
        split="official",
        settings={},
        categories=[],
        splits=summaries,
        left_out=[],
    )
    manifest.save()
    return manifest


def ours(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Each epoch of `fit` is a measurement; between them it waits in `on_epoch`."""
    from seg.start import start_tensorflow

    start_tensorflow()
    from seg.config import TrainConfig
    from seg.models import build_model
    from seg.models.cost import multiply_adds
    from seg.training.devices import make_strategy
    from seg.training.fit import fit
    from seg.training.result import EpochReport

    config = TrainConfig(
        image_size=settings["image_size"],
        filters=settings["filters"],
        precision=settings["precision"],
        devices=settings.get("devices", "auto"),
        batch_size=BATCH,
        loss="bce_dice",
        epochs=10**6,
        patience=0,
    )
    folder = Path(tempfile.mkdtemp(dir=settings["scratch"]))
    manifest = noise_dataset(folder / "noise", config.image_size, settings["steps"] * BATCH)
    reports: queue.SimpleQueue[EpochReport | Exception] = queue.SimpleQueue()
    go_on = threading.Semaphore(0)

    def on_epoch(report: EpochReport) -> bool:
        reports.put(report)
        go_on.acquire()
        return True

    def train() -> None:
        try:
            fit(config, manifest, make_strategy(config.devices), folder, on_epoch)
        except Exception as error:
            reports.put(error)

    def next_epoch() -> float:
        found = reports.get()
        if isinstance(found, Exception):
            raise found
        return found.images_per_second

    threading.Thread(target=train, daemon=True).start()
    next_epoch()  # traces
    gigaflops = 3 * 2 * multiply_adds(build_model(config)) / 1e9  # forward once, backward twice; two per multiply-add

    def measure() -> dict[str, Any]:
        go_on.release()
        speed = next_epoch()
        return {"value": speed, "gigaflops_per_second": speed * gigaflops}

    return measure


def keras(settings: dict[str, Any]) -> Callable[[], float]:
    """Keras's own `fit` with its own batch normalisation, on TensorFlow or JAX."""
    if not settings.get("jax"):
        from seg.start import start_tensorflow

        start_tensorflow()
    import keras
    import numpy as np

    from benchmarks.peers import keras_unet

    model = keras_unet.build(settings["image_size"], settings["filters"], settings["precision"])
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras_unet.bce_dice,
        jit_compile=bool(settings.get("jax")),
    )
    images, masks = _batch(settings)
    steps = settings["steps"]

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return steps

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return images, masks

    batches: Any = Batches()
    if not settings.get("jax"):
        import tensorflow as tf

        batches = tf.data.Dataset.from_tensors((images, masks)).repeat()

    class Watch(keras.callbacks.Callback):
        """Times the epoch's steps alone, as `seg.training.fit` does."""

        seconds = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            assert np.isfinite(float(logs["loss"]))  # waits until all is computed
            self.seconds = time.perf_counter() - self.started

    watch = Watch()

    def measure() -> float:
        model.fit(batches, steps_per_epoch=steps, epochs=1, callbacks=[watch], verbose=0, shuffle=False)
        return steps * BATCH / watch.seconds

    measure()  # traces
    return measure


def torch(settings: dict[str, Any]) -> Callable[[], float]:
    """A plain loop in channels-last; bfloat16 by autocast."""
    import torch

    from benchmarks.peers import torch_unet

    device = torch_unet.device()
    network = torch_unet.segmentation_models_unet() if settings.get("smp") else torch_unet.UNet(settings["filters"])
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    images, masks = (
        torch.from_numpy(part).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).to(device)
        for part in _batch(settings)
    )
    reduced = settings["precision"] == "mixed_bfloat16"

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(settings["steps"]):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
                logits = network(images)
            loss = torch_unet.bce_dice(logits, masks)
            loss.backward()
            optimizer.step()
        assert torch.isfinite(loss)
        return settings["steps"] * BATCH / (time.perf_counter() - started)

    measure()
    return measure


def matrix_product(settings: dict[str, Any]) -> Callable[[], float]:
    """The most that this machine's arithmetic gives."""
    from seg.start import start_tensorflow

    start_tensorflow()
    import tensorflow as tf

    side = settings["side"]
    matrix = tf.cast(tf.random.uniform((side, side)), settings["type"])
    product = tf.function(lambda: tf.linalg.matmul(matrix, matrix))
    product()

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(4):
            product().numpy()
        return 4 * 2 * side**3 / (time.perf_counter() - started) / 1e9

    return measure
