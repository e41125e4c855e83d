"""How fast conversion is, beside the loop that one would write first and the decoder alone.

The naive loop: one process, pycocotools, OpenCV's colour decoder and resize, PNG out for image and mask. Ours:
`convert` into an empty workspace, everything included. The limit: TensorFlow's decoder at full size on all cores, which
keeps nothing of what it decodes. A short benchmark takes part of a large export.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Contender, Target
from benchmarks.sample import sample
from benchmarks.setting import Setting
from seg.data.layout import find_splits

OURS, NAIVE, LIMIT = "seg", "naive loop", "decoding alone"
_SHORT = 600  # images


def cases(setting: Setting) -> list[Case]:
    export = setting.export if setting.full else sample(setting.export, setting.workspace, _SHORT)
    settings = {
        "data": str(export),
        "image_size": 32 if setting.tiny else 256,
        "threads": setting.threads,
    }
    contenders = tuple(
        Contender(name, f"{__name__}:{function}", settings)
        for name, function in ((OURS, "ours"), (NAIVE, "naive"), (LIMIT, "decoding"))
    )
    targets = (
        Target("5 times the naive loop", OURS, (NAIVE,), 5.0),
        Target("60 % of decoding alone", OURS, (LIMIT,), 0.6),
    )
    images = len(_files(export))
    name = f"COCO export of {images} images to records, {settings['image_size']} px"
    return [Case("convert", name, "images/s", contenders, rounds=setting.rounds, targets=targets)]


def _measured(convert_all: Callable[[Path, Path, int, int], int], settings: dict[str, Any]) -> Callable[[], float]:
    """A function that converts once into an empty folder and returns the images per second."""

    def measure() -> float:
        workspace = Path(tempfile.mkdtemp(dir=settings["scratch"]))
        started = time.perf_counter()
        images = convert_all(Path(settings["data"]), workspace, settings["image_size"], settings["threads"])
        seconds = time.perf_counter() - started
        # Not removed before the case ends: for minutes after files were deleted, ext4 passes over their places with
        # every new file. After some rounds that took a third of the time of whoever writes many.
        for large in workspace.rglob("*.npy"):
            os.truncate(large, 0)
        return images / seconds

    return measure


def ours(settings: dict[str, Any]) -> Callable[[], float]:
    """Converts an export with this project."""
    from seg.data.convert import convert

    def convert_all(data: Path, workspace: Path, image_size: int, threads: int) -> int:
        manifest = convert(data, workspace, image_size=image_size, jobs=threads, on_bad="skip", progress=False)
        return sum(split.examples for split in manifest.splits.values())

    return _measured(convert_all, settings)


def naive(settings: dict[str, Any]) -> Callable[[], float]:
    """Converts an export in the plainest way."""
    import cv2
    import numpy as np
    from pycocotools.coco import COCO

    def convert_all(data: Path, workspace: Path, image_size: int, threads: int) -> int:
        images = 0
        for split in find_splits(data):
            coco = COCO(str(split.annotations))
            for folder in ("image", "mask"):
                (workspace / f"{split.name}_{folder}").mkdir()
            for identity, entry in coco.imgs.items():
                image = cv2.imread(str(split.images / entry["file_name"]))
                mask = np.zeros((entry["height"], entry["width"]), np.uint8)
                for annotation in coco.imgToAnns[identity]:
                    mask |= coco.annToMask(annotation)
                size = (image_size, image_size)
                name = f"{Path(entry['file_name']).stem}.png"
                cv2.imwrite(str(workspace / f"{split.name}_image" / name), cv2.resize(image, size))
                resized = cv2.resize(mask * 255, size, interpolation=cv2.INTER_NEAREST)
                cv2.imwrite(str(workspace / f"{split.name}_mask" / name), resized)
                images += 1
        return images

    return _measured(convert_all, settings)


def _files(export: Path) -> list[str]:
    ends = {".jpg", ".jpeg", ".png"}
    return [
        str(path)
        for split in find_splits(export)
        for path in sorted(split.images.rglob("*"))
        if path.suffix.lower() in ends
    ]


def decoding(settings: dict[str, Any]) -> Callable[[], float]:
    """Decodes every file and forgets it."""
    from seg.start import start_tensorflow

    start_tensorflow()
    import tensorflow as tf

    files = _files(Path(settings["data"]))

    def decode(path: tf.Tensor) -> tf.Tensor:
        return tf.shape(tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False))

    def measure() -> float:
        started = time.perf_counter()
        decoded = tf.data.Dataset.from_tensor_slices(files).map(decode, settings["threads"])
        count = sum(1 for _ in decoded.batch(64))
        assert count
        return len(files) / (time.perf_counter() - started)

    measure()  # traces; and nobody's first round reads from the disk
    return measure
