"""How fast a trained model answers: the loaded registered model beside the bare Keras call, ONNX Runtime and PyTorch.

The peers are given pictures at the training size and return the probabilities of each pixel. So does `seg`: the
predictor of a registered model, loaded by MLflow, whose answers also hold the mask, its confidence and whether the
picture is unlike the training images; on a CPU OpenVINO computes it where that extra is installed, as `bench` does, and
in `seg, without OpenVINO` TensorFlow (not in `mode=short`). All compute in float32, but for `seg, bfloat16`: the same
model as `precision=auto` trains it where the processor has that format, for which ONNX Runtime has no convolution on a
CPU. `seg, file to file` is the whole registered model, from the bytes of a PNG to the bytes of the mask's PNG.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Contender, Target
from benchmarks.machine import computes_in_bfloat16
from benchmarks.setting import Setting
from experiments.executors.gpus import visible_gpus

OURS, PLAIN, REDUCED, WHOLE, CALL, PREDICT, ONNX, TORCH = (
    "seg",
    "seg, without OpenVINO",
    "seg, bfloat16",
    "seg, file to file",
    "bare Keras call",
    "Keras predict_on_batch",
    "ONNX Runtime",
    "PyTorch",
)


def cases(setting: Setting) -> list[Case]:
    size, filters = (32, 2) if setting.tiny else (128, 16)
    has_gpus = bool(visible_gpus(os.environ))
    has_reduced = computes_in_bfloat16() and not has_gpus
    found = []
    for batch in (1, 8):
        calls = 3 if setting.tiny else (12 if setting.short else 48) // batch + 2
        settings = {
            "filters": filters,
            "image_size": size,
            "batch": batch,
            "calls": calls,
            "threads": setting.threads,
        }
        latency = batch == 1

        def contender(
            name: str, function: str, *needs: str, settings: dict[str, Any] = settings, **more: Any
        ) -> Contender:
            return Contender(name, f"{__name__}:{function}", settings | more, needs)

        plain = () if has_gpus else (contender(PLAIN, "ours", hidden="openvino"),)
        reduced = (contender(REDUCED, "ours", precision="mixed_bfloat16"),) if has_reduced else ()
        contenders = (
            contender(OURS, "ours"),
            *reduced,
            *(() if setting.short else (*plain, contender(WHOLE, "ours", whole=True))),
            contender(CALL, "keras"),
            contender(PREDICT, "keras", predict=True),
            contender(ONNX, "onnx", "onnxruntime", "tf2onnx"),
            contender(TORCH, "torch", "torch"),
        )
        if latency:
            name, unit = f"latency of one picture (p50), {size} px, filters {filters}", "ms"
            names = (OURS, *(one.name for one in reduced))
            targets = tuple(
                Target(f"within 10 % of the p50 of ONNX Runtime in float32: {one}", one, (ONNX,), 1 / 1.1)
                for one in names
            )
        else:
            name, unit = f"batches of {batch}, {size} px, filters {filters}", "images/s"
            targets = (Target("1.2 times the bare Keras call", OURS, (CALL,), 1.2),)
        found.append(Case("inference", name, unit, contenders, not latency, setting.rounds, targets))
    return found


def _pictures(settings: dict[str, Any]) -> Any:
    import numpy as np

    shape = (settings["batch"], settings["image_size"], settings["image_size"], 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _timed(call: Callable[[], Any], settings: dict[str, Any]) -> Callable[[], float]:
    """The median time of a call in ms for single pictures, else pictures per second."""
    import statistics

    for _ in range(3):
        call()

    def measure() -> float:
        seconds = []
        for _ in range(settings["calls"]):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
        if settings["batch"] == 1:
            return 1000 * statistics.median(seconds)
        return settings["batch"] * len(seconds) / sum(seconds)

    return measure


def _model(settings: dict[str, Any]) -> Any:
    """A U-Net whose normalisation has statistics as after a training."""
    import keras
    import numpy as np

    from seg.config import TrainConfig
    from seg.models import build_model

    keras.utils.set_random_seed(0)
    precision = settings.get("precision", "float32")
    config = TrainConfig(image_size=settings["image_size"], filters=settings["filters"], precision=precision)
    model = build_model(config)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return model


def ours(settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """The registered model, saved and loaded as MLflow does it; `hidden` names a package that cannot be imported."""
    if "hidden" in settings:
        sys.modules[settings["hidden"]] = None  # type: ignore[assignment]
    from seg.start import start_tensorflow

    start_tensorflow()
    import cv2
    import mlflow
    from mlflow.models import Model

    from experiments.registry.saved_model import save_model
    from experiments.tracking.tracking_uri import quieten_mlflow

    quieten_mlflow()
    pictures = _pictures(settings)
    files = [bytes(cv2.imencode(".png", picture)[1]) for picture in pictures]
    folder = Path(tempfile.mkdtemp(dir=settings["scratch"]))
    _model(settings).save(folder / "model.keras")
    (folder / "registered").mkdir()
    chosen = {"threshold": 0.5, "tta": "none"}
    saved = save_model(folder / "registered", Model(), folder / "model.keras", chosen, files[0])
    model = mlflow.pyfunc.load_model(str(saved))
    predictor = model.unwrap_python_model().predictor
    if settings.get("whole"):
        timed = _timed(lambda: model.predict({"image": files}), settings)
    else:
        timed = _timed(lambda: list(predictor.predict_many(pictures)), settings)
    return lambda: {"value": timed(), "note": predictor.engine}


def keras(settings: dict[str, Any]) -> Callable[[], float]:
    """`model(pictures)`, or `model.predict_on_batch(pictures)`, and the sigmoid."""
    from seg.start import start_tensorflow

    start_tensorflow()
    import numpy as np

    model, pictures = _model(settings), _pictures(settings).astype(np.float32)
    if settings.get("predict"):
        return _timed(lambda: _sigmoid(model.predict_on_batch(pictures)), settings)
    return _timed(lambda: _sigmoid(np.asarray(model(pictures, training=False))), settings)


def onnx(settings: dict[str, Any]) -> Callable[[], float]:
    """The same network, exported by Keras."""
    from seg.start import start_tensorflow

    start_tensorflow()
    import numpy as np
    import onnxruntime

    folder = Path(tempfile.mkdtemp(dir=settings["scratch"]))
    pictures = _pictures(settings).astype(np.float32)
    model = _model(settings)
    model(pictures, training=False)  # a model that was never called cannot be exported
    model.export(folder / "model.onnx", format="onnx", verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["threads"]
    offered = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in offered]
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=providers)
    (name,) = (node.name for node in session.get_inputs())
    return _timed(lambda: _sigmoid(session.run(None, {name: pictures})[0]), settings)


def torch(settings: dict[str, Any]) -> Callable[[], float]:
    """The same architecture in PyTorch, in channels-last."""
    import numpy as np
    import torch

    from benchmarks.peers.torch_unet import UNet, device

    where = device()
    network = UNet(settings["filters"]).eval().to(where, memory_format=torch.channels_last)
    pictures = _pictures(settings)

    def call() -> Any:
        with torch.inference_mode():
            given = torch.from_numpy(pictures.astype(np.float32)).permute(0, 3, 1, 2).to(where)
            return network(given).sigmoid().cpu().numpy()

    return _timed(call, settings)


def _sigmoid(logits: Any) -> Any:
    import numpy as np

    return 1 / (1 + np.exp(-logits))
