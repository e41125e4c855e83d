"""Weights that an encoder begins with: from a file, from the network, or one clear line."""

import socket
import time
from contextlib import suppress
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seg.config import TrainConfig
from seg.errors import UserError
from seg.models import build_model, encoder_weights
from seg.models.encoder_weights import load_weights
from seg.models.encoders import _NETWORKS

NOT_OURS = "encoder_weights must be a file with the weights of resnet50 without its classifier"


def network(channels: int = 4) -> keras.Model:
    """Small, in the place of a network of keras.applications."""
    image = keras.Input((8, 8, 3))
    return keras.Model(image, keras.layers.Conv2D(channels, 3, name="first")(image))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    network().save_weights(path)
    return path


def test_a_model_begins_with_the_weights_of_a_file(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    pretrained = keras.applications.MobileNetV3Small((64, 64, 3), include_top=False, weights=None)
    pretrained.save_weights(tmp_path / "mobile.weights.h5")
    keras.utils.set_random_seed(2)
    config = TrainConfig(
        encoder="mobilenetv3small",
        encoder_weights=str(tmp_path / "mobile.weights.h5"),
        image_size=32,
        depth=5,
        filters=2,
    )
    model = build_model(config)
    compared = 0
    for layer in pretrained.layers:
        if layer.weights:
            compared += 1
            for ours, theirs in zip(model.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
                np.testing.assert_array_equal(ours, theirs)
    assert compared > 60


@pytest.mark.parametrize("encoder", _NETWORKS)
def test_images_are_prepared_as_the_weights_expect(encoder: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.float32)
    image = keras.Input((4, 4, 3))
    prepared = keras.Model(image, _NETWORKS[encoder][1](image))(images)
    if encoder == "resnet50":
        expected = keras.applications.resnet.preprocess_input(images.copy())
    elif encoder == "efficientnetv2b0":
        expected = keras.applications.imagenet_utils.preprocess_input(images.copy(), mode="torch")
    else:
        expected = keras.applications.imagenet_utils.preprocess_input(images.copy(), mode="tf")
    np.testing.assert_allclose(prepared, expected, atol=1e-4)


def test_weights_of_another_network_are_refused(saved: Path) -> None:
    with pytest.raises(UserError, match=NOT_OURS):
        load_weights(network(channels=5), "resnet50", str(saved))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{NOT_OURS}, and .*none.h5 is not: there is no such file"):
        load_weights(network(), "resnet50", str(tmp_path / "none.h5"))


def test_a_file_that_promises_more_than_it_has(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "large.weights.h5", "w") as file:
        file.create_dataset("layers/first/vars/0", shape=(1_000_000, 1_000_000), dtype="f4", chunks=(1000, 1000))
    with pytest.raises(UserError, match="promises 4000000000000 bytes of weights"):
        load_weights(network(), "resnet50", str(tmp_path / "large.weights.h5"))


def test_a_file_that_reads_another(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    with h5py.File(tmp_path / "link.weights.h5", "w") as file:
        file.create_dataset("a", shape=(4,), dtype="f4", external=[(str(tmp_path / "secret"), 0, 16)])
    with pytest.raises(UserError, match="'a' is kept in another file"):
        load_weights(network(), "resnet50", str(tmp_path / "link.weights.h5"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_a_user_error_or_loads(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(saved.read_bytes())
    cut = data.draw(st.integers(0, len(content)))
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=9)
    ):
        content[place] = value
    (tmp_path / "damaged.weights.h5").write_bytes(content[:cut])
    with suppress(UserError):
        load_weights(network(), "resnet50", str(tmp_path / "damaged.weights.h5"))


class TestImageNet:
    def test_no_network_is_quick_and_names_the_remedy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(encoder_weights, "_URL", "http://127.0.0.1:9/")  # where nobody listens
        monkeypatch.setitem(encoder_weights._IMAGENET, "resnet50", ("resnet/never-there.h5", "0" * 32))
        started = time.monotonic()
        with pytest.raises(
            UserError,
            match="needs http://127.0.0.1:9/resnet/never-there.h5, which cannot be downloaded .* give its path as "
            "encoder_weights, or use none",
        ):
            load_weights(network(), "resnet50", "imagenet")
        assert time.monotonic() - started < 30  # where one waits for a network, it is minutes

    def test_a_server_that_says_nothing_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setattr(encoder_weights, "_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
            monkeypatch.setitem(encoder_weights._IMAGENET, "resnet50", ("resnet/never-there.h5", "0" * 32))
            monkeypatch.setattr(encoder_weights, "_SECONDS", 0.5)
            with pytest.raises(UserError, match="cannot be downloaded \\(.*timed out"):
                load_weights(network(), "resnet50", "imagenet")
        assert socket.getdefaulttimeout() is None

    def test_every_encoder_has_its_file(self) -> None:
        assert set(encoder_weights._IMAGENET) == set(_NETWORKS)
