"""What a model costs on this machine, from an image of the training size to its logits, in the graph that serves it."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from seg.models.cost import multiply_adds
from seg.serving_graph import serving_graph
from seg.training.result import ModelCost, TrainResult

_SECONDS = 0.5  # of measuring, once per kind
_REPEATS = (3, 200)  # at least, at most


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed of a model; reading files and resizing are not in it.

    Attributes:
        machine: processor and number of cores, or the GPU; and what computed, OpenVINO or TensorFlow.
        batch_size: images at a time for the throughput.
        images_per_second: throughput, from the median duration of a batch.
        latency_ms: median duration of one image alone, in milliseconds.
    """

    machine: str
    batch_size: int
    images_per_second: float
    latency_ms: float


def measure_speed(model: keras.Model, images: np.ndarray) -> Speed:
    """Times a model for about a second, on one replica, after a call that is not counted.

    Args:
        images: `(batch, image_size, image_size, 3)` uint8, the batch to time.
    """
    graph = serving_graph(model)
    return Speed(
        machine=f"{machine()}, {graph.engine}",
        batch_size=len(images),
        images_per_second=len(images) / _seconds_for(graph, images),
        latency_ms=1000 * _seconds_for(graph, images[:1]),
    )


def measure_cost(model: keras.Model, image: np.ndarray, result: TrainResult) -> ModelCost:
    """What a trained model costs; times it for about half a second.

    Args:
        model: that training left.
        image: `(image_size, image_size, 3)` uint8, any of the dataset.
        result: of its training.
    """
    warm = result.history[1:] or result.history
    return ModelCost(
        parameters=result.parameters,
        multiply_adds=multiply_adds(model),
        latency_ms=1000 * _seconds_for(serving_graph(model), image[None]),
        images_per_second=statistics.median(report.images_per_second for report in warm),
    )


def machine() -> str:
    """What computes here: the first GPU, or the processor and the cores that this process may use."""
    for gpu in tf.config.list_physical_devices("GPU"):
        return str(tf.config.experimental.get_device_details(gpu).get("device_name", "GPU"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{_processor()}, {cores} core{'s' if cores > 1 else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _seconds_for(graph: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> float:
    return _median_seconds(lambda: graph(images))


def _median_seconds(call: Callable[[], object]) -> float:
    call()  # traced and warm
    durations: list[float] = []
    least, most = _REPEATS
    while len(durations) < least or (len(durations) < most and sum(durations) < _SECONDS):
        started = time.perf_counter()
        call()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)
