"""OpenVINO in place of TensorFlow: the same numbers, from several threads too, and nobody else hears of it."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from seg import serving_graph as serving
from seg.openvino_graph import compiled_by_openvino
from seg.serving_graph import serving_graph
from tests.model_configs import CONFIGS
from tests.test_serving_graph import trained

pytest.importorskip("openvino", reason="needs the extra openvino")
OF_FLOAT32 = [name for name in CONFIGS if CONFIGS[name].precision == "float32"]


def images_for(model: keras.Model, number: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (number, *model.input_shape[1:]), np.uint8)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether OpenVINO computed each graph that was asked for."""
    found: list[bool] = []

    def noted(graph: object) -> object:
        computed = compiled_by_openvino(graph)
        found.append(computed is not None)
        return computed

    monkeypatch.setattr(serving, "compiled_by_openvino", noted)
    return found


@pytest.mark.parametrize("name", OF_FLOAT32)
def test_it_says_what_the_model_says(name: str, compiled: list[bool]) -> None:
    model = trained(name)
    images = images_for(model)
    expected = np.asarray(model(images.astype(np.float32), training=False))
    graph = serving_graph(model)
    assert compiled == [True]
    for some in (images, images[:1], images[::-1][::2]):  # the last one does not lie in one piece
        found = graph(some)
        assert (found.dtype, found.shape[1:]) == (np.float32, expected.shape[1:])
    np.testing.assert_allclose(graph(images), expected, atol=1e-4 * max(1, expected.std()))
    np.testing.assert_allclose(graph(images[:1]), expected[:1], atol=1e-4 * max(1, expected.std()))


@pytest.mark.parametrize("name", ["unet_bfloat16", "unet_float16"])
def test_in_16_bits_tensorflow_answers(name: str, compiled: list[bool]) -> None:
    model = trained(name)
    assert serving_graph(model)(images_for(model)).dtype == np.float32
    assert not compiled


def test_where_there_is_a_gpu_tensorflow_answers(compiled: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    model = trained("unet")
    serving_graph(model)
    assert not compiled


def test_an_operation_that_it_does_not_know_is_left_to_tensorflow(compiled: list[bool]) -> None:
    image = keras.Input((8, 8, 3))

    class Unknown(keras.layers.Layer):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return tf.math.bessel_i1e(inputs)

    model = keras.Model(image, Unknown()(image))
    images = images_for(model)
    found = serving_graph(model)(images)
    assert compiled == [False]
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


@pytest.mark.parametrize("installed", [True, False])
def test_nobody_is_told_and_without_it_there_is_tensorflow(installed: bool) -> None:
    script = f"""
import os, socket, sys
if not {installed}:
    sys.modules["openvino"] = None
import keras, numpy as np
from seg.openvino_graph import _openvino
from seg.serving_graph import serving_graph
def told(*given, **more):
    os.write(2, b"told")
    os._exit(3)
socket.socket.connect = socket.getaddrinfo = os.fork = told
image = keras.Input((8, 8, 3))
graph = serving_graph(keras.Model(image, keras.layers.Conv2D(1, 3)(image)))
print(graph(np.zeros((2, 8, 8, 3), np.uint8)).shape, _openvino() is not None, "openvino_telemetry" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, f"(2, 6, 6, 1) {installed} False\n"), done.stderr
