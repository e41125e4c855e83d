import pytest

from experiments.executors.gpus import gpu_groups, visible_gpus


@pytest.mark.parametrize(
    ("gpus", "slots", "each", "dealt"),
    [
        (["0", "1", "2", "3"], 2, 2, ("0,2", "1,3")),
        (["4", "5", "6"], 2, 1, ("4", "5")),
        (["0", "1"], 1, 1, ("0",)),
        (["0", "1"], 3, 0, ("", "", "")),  # none, although there are some
        ([], 3, 0, ()),
    ],
)
def test_gpus_are_dealt_out(gpus, slots, each, dealt):
    assert gpu_groups(gpus, slots, each) == dealt


@pytest.mark.parametrize(("visible", "seen"), [("0,1", ["0", "1"]), ("", []), ("-1", []), ("0, 1,-1,2", ["0", "1"])])
def test_visible_gpus(visible, seen):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": visible}) == seen


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
