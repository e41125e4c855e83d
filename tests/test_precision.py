from pathlib import Path

import pytest
import tensorflow as tf

from seg.config import PRECISIONS, TrainConfig
from seg.models import build_model, precision
from seg.models.precision import with_chosen_precision

FLAGS = "processor\t: 0\nflags\t\t: fpu avx512f {} clzero\n\nprocessor\t: 1\n"


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sets which instructions the processor has, without GPUs."""

    def choose(instructions: str) -> None:
        (tmp_path / "cpuinfo").write_text(FLAGS.format(instructions), encoding="utf-8")
        monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    return choose


def chosen(**options) -> str:
    return with_chosen_precision(TrainConfig(precision="auto", **options)).precision


@pytest.mark.parametrize(
    ("instructions", "least"), [("avx512_bf16", 16), ("amx_bf16", 8), ("avx512_bf16 amx_bf16 amx_tile", 8)]
)
def test_bfloat16_where_the_processor_has_it_and_the_network_is_wide_enough(cpu, instructions: str, least: int) -> None:
    cpu(instructions)
    assert chosen(filters=least) == "mixed_bfloat16"
    assert chosen(filters=least - 1) == "float32"


def test_float32_where_nothing_was_measured(cpu, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu("avx512_bf16")
    assert chosen(filters=16, encoder="resnet50") == "float32"
    cpu("avx512_vnni")
    assert chosen(filters=16) == "float32"
    monkeypatch.setattr(precision, "_CPUINFO", Path("/nowhere/cpuinfo"))
    assert chosen(filters=16) == "float32"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([(8, 0)], "mixed_bfloat16"),
        ([(9, 0), (8, 6)], "mixed_bfloat16"),
        ([(9, 0), (7, 5)], "float32"),
        ([None], "float32"),
    ],
)
def test_gpus(capabilities, expected: str, cpu, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu("")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: capabilities)  # any object is a GPU here
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda capability: {} if capability is None else {"compute_capability": capability},
    )
    assert chosen(filters=8) == expected
    assert chosen(filters=16, devices="cpu:2") == "float32"  # the processor has no bfloat16


@pytest.mark.parametrize("given", [name for name in PRECISIONS if name != "auto"])
def test_what_was_chosen_by_hand_stays(given: str) -> None:
    config = TrainConfig(precision=given)
    assert with_chosen_precision(config) is config


@pytest.mark.parametrize(("instructions", "expected"), [("avx512_bf16", "bfloat16"), ("", "float32")])
def test_a_model_is_built_of_it(cpu, instructions: str, expected: str) -> None:
    cpu(instructions)
    model = build_model(TrainConfig(precision="auto", image_size=16, depth=1, filters=16))
    assert model.get_layer("bottom_convolution_1").compute_dtype == expected
