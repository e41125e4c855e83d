"""What is said before a study starts, worked out by hand."""

from pathlib import Path

from experiments.executors.forecast import CHECKPOINTS, forecast
from experiments.executors.slot_speed import Speed
from experiments.executors.slots import Division, Share
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from tests.tiny import write_tiny


def test_by_hand(tmp_path: Path) -> None:
    manifest: Manifest = write_tiny(tmp_path, train=20, val=12)
    share = Share(cpus=2, gpus=0)
    speed = Speed(
        slots=2, share=share, images_per_second=4.0, start_seconds=7.0, model_bytes=10**6, checkpoint_bytes=3 * 10**6
    )
    line = forecast(3, 3, speed.division, TrainConfig(epochs=5), manifest, speed)
    # An epoch trains 20 images and validates 12, as long as 4 more, at 2 images per second: 12 s. Two rounds of
    # 7 + 5 · 12 s are 134 s. Three models twice, and two checkpoints of each of two trials: 6 + 12 MB.
    assert (
        line
        == "forecast: 3 trials in all, of up to 5 epochs, 2 trials at a time, 2 cores each: 2 min and 18 MB of disk"
    )
    # One is left: one round, 67 s, its model twice and two checkpoints: 2 + 6 MB.
    assert (
        forecast(3, 1, speed.division, TrainConfig(epochs=5), manifest, speed)
        == "forecast: 1 of 3 trials left, of up to 5 epochs, 2 trials at a time, 2 cores each: 1 min and 8 MB of disk"
    )


def test_without_a_measurement(tiny: Manifest) -> None:
    division = Division(slots=1, share=Share(cpus=8, gpus=1))
    assert forecast(1, 1, division, TrainConfig(epochs=5), tiny, None) == (
        "forecast: 1 trial in all, of up to 5 epochs, 1 trial at a time, 1 GPU and 8 cores; slots=auto would measure "
        "how long that takes"
    )


def test_checkpoints_that_are_kept() -> None:
    from seg.training.checkpoint import KEPT

    assert CHECKPOINTS == KEPT
