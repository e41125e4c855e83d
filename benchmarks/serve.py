"""How fast a served model answers, beside the same model in this process and beside the bare network.

    python -m benchmarks.serve --image FILE [--model models:/seg-unet@champion] [--requests 40] [--rounds 5]

Three ways, in turn in every round, so that all see the same machine: `network` is one call of the network on a picture
that is decoded and resized already; `pyfunc` is the registered model in this process, from JPEG to PNG; `HTTP` is
`POST /mask` of a server process of its own on the same machine. Latencies are of single requests.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests

from experiments.command_line import entry
from experiments.registry.registry import Registry
from experiments.tracking.tracker import Tracker
from seg.start import start_tensorflow

CLIENTS = (1, 4, 8)
_WARM_UP = 5  # requests of each way before the first round


@dataclass(frozen=True)
class Way:
    """A way to a mask: its name, how many ask at once, and one call for each of them."""

    name: str
    clients: int
    calls: Sequence[Callable[[], Any]]


@contextmanager
def server(model: str, uri: str) -> Iterator[str]:
    """The address of a server process for the model."""
    command = [sys.executable, "-m", "experiments.serve", f"--model={model}", "--port=0"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[3]
        finally:
            process.terminate()


def post(session: requests.Session, url: str, image: bytes) -> bytes:
    """One mask over HTTP."""
    answer = session.post(f"{url}/mask", image, timeout=60)
    answer.raise_for_status()
    return answer.content


def in_process_ways(model: Any, image: bytes) -> list[Way]:
    """The bare network, and the registered model around it."""
    predictor = model.unwrap_python_model().predictor
    picture = np.zeros((1, predictor.image_size, predictor.image_size, 3), np.float32)
    return [
        Way("network", 1, [lambda: np.asarray(predictor._logits(picture))]),
        Way("pyfunc", 1, [lambda: model.predict({"image": [image]})]),
    ]


def measure(way: Way, requests_: int) -> tuple[float, float, float]:
    """Latency p50 and p95 in milliseconds, and requests per second, of one round of one way."""

    def ask(client: int) -> list[float]:
        seconds = []
        for _ in range(requests_ // way.clients):
            started = time.perf_counter()
            way.calls[client]()
            seconds.append(time.perf_counter() - started)
        return seconds

    with ThreadPoolExecutor(way.clients) as pool:
        started = time.perf_counter()
        latencies = [second for found in pool.map(ask, range(way.clients)) for second in found]
        elapsed = time.perf_counter() - started
    p50, p95 = np.percentile(latencies, (50, 95)) * 1000
    return float(p50), float(p95), len(latencies) / elapsed


def main() -> None:
    """Runs all ways in turn and prints the table: medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, required=True, help="image file that every request sends")
    parser.add_argument("--model", default="models:/seg-unet@champion", help="registered model")
    parser.add_argument("--requests", type=int, default=40, help="of each way in each round (40)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    options = parser.parse_args()
    image = options.image.read_bytes()
    uri = Tracker(entry.read_launch().tracking_uri, None).uri
    model = Registry(uri).find(options.model)
    start_tensorflow()
    from experiments.serving.scoring import load_served_model

    with ExitStack() as stack:
        url = stack.enter_context(server(model.uri, uri))
        ways = in_process_ways(load_served_model(model, uri), image)
        for clients in CLIENTS:
            sessions = [stack.enter_context(requests.Session()) for _ in range(clients)]
            ways.append(Way("HTTP", clients, [lambda one=one: post(one, url, image) for one in sessions]))
        for way in ways:
            measure(way, _WARM_UP * way.clients)
        rounds = [[measure(way, options.requests) for way in ways] for _ in range(options.rounds)]
    print("| way | clients | p50, ms | p95, ms | masks/s |\n|---|---|---|---|---|")
    for way, found in zip(ways, zip(*rounds, strict=True), strict=True):
        p50, p95, rate = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"| {way.name} | {way.clients} | {p50:.1f} | {p95:.1f} | {rate:.1f} |")


if __name__ == "__main__":
    main()
