import pytest

from experiments.executors.gpus import gpus_per_slot, visible_gpus
from seg.errors import UserError


@pytest.mark.parametrize(
    ("slots", "visible", "dealt"),
    [
        (2, "0,1,2,3", ("0,2", "1,3")),
        (2, "4,5,6", ("4,6", "5")),
        (1, "0,1", ()),
        (3, "", ()),
        (3, "-1", ()),
        (2, "0, 1,-1,2", ("0", "1")),
    ],
)
def test_gpus_are_dealt_out(slots, visible, dealt):
    assert gpus_per_slot(slots, {"CUDA_VISIBLE_DEVICES": visible}) == dealt


def test_more_slots_than_gpus():
    with pytest.raises(UserError, match="slots must be at most the number of GPUs, 2, got 3; use 2"):
        gpus_per_slot(3, {"CUDA_VISIBLE_DEVICES": "0,1"})


@pytest.mark.parametrize(("script", "gpus"), [("echo GPU-a; echo GPU-b", ["GPU-a", "GPU-b"]), ("exit 9", [])])
def test_the_nvidia_driver_is_asked_for_uuids(tmp_path, monkeypatch, script, gpus):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == gpus


def test_no_nvidia_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == []
