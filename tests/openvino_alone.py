"""OpenVINO in place of TensorFlow: the same numbers, from several threads too, and nobody else hears of it.

`test_openvino.py` runs this file in a process of its own.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from seg import openvino_graph
from seg import serving_graph as serving
from seg.config import TrainConfig
from seg.openvino_graph import compiled_by_openvino
from seg.serving_graph import serving_graph
from seg.training import speed
from tests.model_configs import CONFIGS
from tests.test_serving_graph import trained

BY_THE_PICTURE = ("unet_group", "unet_instance", "deeplabv3plus_options")  # normalised
ANSWERED = [name for name, config in CONFIGS.items() if config.precision == "float32" and name not in BY_THE_PICTURE]


def images_for(model: keras.Model, number: int = 3) -> np.ndarray:
    """Noise; a bright spot on black, as in medicine; white."""
    images = np.random.default_rng(1).integers(0, 256, (number, *model.input_shape[1:]), np.uint8)
    images[1:2] = 0
    images[1:2, 4:9, 3:9] = 200
    images[2:3] = 255
    return images


def probabilities(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether OpenVINO computed each graph that was asked for."""
    found: list[bool] = []

    def noted(traced: Callable[[], object]) -> object:
        computed = compiled_by_openvino(traced)
        found.append(computed is not None)
        return computed

    monkeypatch.setattr(serving, "compiled_by_openvino", noted)
    return found


@pytest.mark.parametrize("name", ANSWERED)
def test_it_says_what_the_model_says(name: str, compiled: list[bool]) -> None:
    model = trained(name)
    images = images_for(model)
    expected = probabilities(model(images.astype(np.float32), training=False))
    graph = serving_graph(model)
    assert compiled == [True]
    assert graph.engine == "OpenVINO"
    for some in (slice(3), slice(1), slice(None, None, -2)):  # the last ones do not lie in one piece
        found = graph(images[some])
        assert found.dtype == np.float32
        np.testing.assert_allclose(probabilities(found), expected[some], atol=1e-4)


@pytest.mark.parametrize("spread", [1, 30])
def test_pictures_of_real_size_and_logits_of_any_size(spread: float) -> None:
    config = TrainConfig(image_size=128, filters=8)
    model = trained(config)
    last = model.layers[-1]
    images = images_for(model)
    last.set_weights([weight * spread for weight in last.get_weights()])
    logits = np.asarray(model(images.astype(np.float32), training=False))
    assert logits.std() > 0.1 * spread
    np.testing.assert_allclose(probabilities(serving_graph(model)(images)), probabilities(logits), atol=2e-4)


@pytest.mark.parametrize("name", ["unet_bfloat16", "unet_float16", *BY_THE_PICTURE])
def test_what_it_would_compute_otherwise_is_left_to_tensorflow(name: str, compiled: list[bool]) -> None:
    model = trained(name)
    graph = serving_graph(model)
    assert graph(images_for(model)).dtype == np.float32
    assert (graph.engine, compiled) == ("TensorFlow", [])


def test_a_speed_names_what_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS", 0.01)
    model = trained("unet")
    assert speed.measure_speed(model, images_for(model, 5)).machine == f"{speed.machine()}, OpenVINO"


def test_where_there_is_a_gpu_tensorflow_answers(compiled: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    model = trained("unet")
    serving_graph(model)
    assert not compiled


def test_an_operation_that_it_does_not_know_is_left_to_tensorflow(
    compiled: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    image = keras.Input((8, 8, 3))

    class Unknown(keras.layers.Layer):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return tf.math.bessel_i1e(inputs)

    model = keras.Model(image, Unknown()(image))
    images = images_for(model)
    with caplog.at_level("WARNING"):
        found = serving_graph(model)(images)
    assert compiled == [False]
    assert "OpenVINO cannot compute this model" in caplog.text
    np.testing.assert_allclose(found, tf.math.bessel_i1e(images.astype(np.float32)), rtol=1e-6)


def test_an_answer_stays_when_the_next_one_comes_and_threads_get_their_own() -> None:
    model = trained("unet")
    graph = serving_graph(model)
    images = images_for(model, 16)
    alone = [graph(images[k : k + 1]) for k in range(16)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda k: graph(images[k : k + 1]), range(16)))
    np.testing.assert_array_equal(np.concatenate(together), np.concatenate(alone))
    np.testing.assert_allclose(np.concatenate(alone), graph(images), atol=1e-5)


def test_other_numbers_than_uint8_are_refused() -> None:
    model = trained("unet")
    with pytest.raises(TypeError, match="images must be uint8, got float64"):
        serving_graph(model)(images_for(model) / 255)


@pytest.mark.parametrize(("threads", "meant"), [("", {}), ("-1", {}), ("1", 1), ("99999999999", os.cpu_count())])
def test_threads(threads: str, meant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", threads)
    assert openvino_graph._threads() == ({"INFERENCE_NUM_THREADS": meant} if meant else {})


@pytest.mark.parametrize("error", [OSError("a library is missing"), RuntimeError("no such processor"), MemoryError()])
def test_a_broken_installation_costs_no_answer(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def Core(self) -> None:
            raise error

    monkeypatch.setitem(sys.modules, "openvino", Broken())
    monkeypatch.setattr(openvino_graph, "_core", openvino_graph._core.__wrapped__)
    model = trained("unet")
    graph = serving_graph(model)
    assert graph.engine == "TensorFlow"
    assert graph(images_for(model)).shape == (3, *model.output_shape[1:])


def test_a_signal_after_models_are_gone() -> None:
    """On processors with AMX, OpenVINO sets up a stack for signals, and frees it."""
    script = """
import gc, signal, threading, time
import keras
from seg.serving_graph import serving_graph
from seg.training import speed
image = keras.Input((8, 8, 3))
model = keras.Model(image, keras.layers.Conv2D(1, 3)(image))
kept = [serving_graph(model)]
def let_go():
    kept.clear()
    gc.collect()
thread = threading.Thread(target=let_go)
thread.start()
thread.join()
signal.signal(signal.SIGALRM, lambda number, frame: print("heard"))
signal.setitimer(signal.ITIMER_REAL, 0.1)
time.sleep(1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


@pytest.mark.parametrize("installed", [True, False])
def test_nobody_is_told_threads_may_load_at_once_and_without_it_there_is_tensorflow(installed: bool) -> None:
    script = f"""
import os, socket, sys
from concurrent.futures import ThreadPoolExecutor
if not {installed}:
    sys.modules["openvino"] = None
import keras, numpy as np
from seg.serving_graph import serving_graph
from seg.training import speed
def told(*given, **more):
    os.write(2, b"told")
    os._exit(3)
socket.socket.connect = socket.getaddrinfo = os.fork = told
image = keras.Input((8, 8, 3))
model = keras.Model(image, keras.layers.Conv2D(1, 3)(image))
with ThreadPoolExecutor(4) as threads:
    graphs = list(threads.map(lambda _: serving_graph(model), range(4)))
print({{graph.engine for graph in graphs}}, graphs[0](np.zeros((2, 8, 8, 3), np.uint8)).shape)
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    engine = "OpenVINO" if installed else "TensorFlow"
    assert (done.returncode, done.stdout) == (0, f"{{'{engine}'}} (2, 6, 6, 1)\n[]\n"), done.stderr
