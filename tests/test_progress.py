import io

import pytest

from experiments.command_line.progress import Progress, describe, duration, short
from seg.config import TrainConfig
from seg.training.result import EpochReport


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def report(epoch: int, val_dice: float) -> EpochReport:
    return EpochReport(epoch=epoch, train_loss=1, val_loss=1, val_dice=val_dice, images_per_second=1, seconds=1)


BASE = TrainConfig(epochs=4)
CONFIG = TrainConfig(loss="dice", filters=16, epochs=4)


def test_a_terminal_gets_one_line_that_updates():
    stream, clock = Terminal(), Clock()
    progress = Progress(stream, clock)
    progress.study(trials=8, finished=2, base=BASE, best=0.7341)
    progress.trial_started(2, CONFIG)
    clock.now = 10.0
    progress.epoch(2, report(1, 0.5))
    # 10 s for the first of 6 × 4 = 24 epochs: 230 s are left
    shown = "trial 3/8  ━━──────── epoch 1/4  val_dice 0.5000  best 0.7341  4 min left  dice, filters 16"
    assert stream.getvalue().split("\r\x1b[2K")[-1] == shown[:79]
    assert "\n" not in stream.getvalue()
    progress.close()
    assert stream.getvalue().endswith("\r\x1b[2K")


def test_the_live_line_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    progress = Progress(stream, Clock())
    progress.study(8, 0, BASE, None)
    progress.trial_started(0, CONFIG)
    assert len(stream.getvalue().split("\x1b[2K")[-1]) == 29


def test_elsewhere_one_line_per_trial_and_at_most_one_per_ten_seconds():
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    progress.study(trials=2, finished=0, base=BASE, best=None)
    progress.trial_started(0, CONFIG)
    for epoch, now in enumerate((4.0, 8.0, 12.0, 16.0), start=1):
        clock.now = now
        progress.epoch(0, report(epoch, 0.1 * epoch))
    progress.trial_ended(0, "finished", 0.4, "")
    progress.close()
    # at 12 s three epochs are done, 4 s each, and 1 + 4 are left: 20 s
    assert stream.getvalue().splitlines() == [
        "trial 1/2  ━━━━━━━━── epoch 3/4  val_dice 0.3000  20 s left  dice, filters 16",
        "trial 1/2  dice, filters 16  val_dice 0.4000, best so far",
    ]


@pytest.mark.parametrize(
    ("state", "val_dice", "detail", "line"),
    [
        ("finished", 0.6, "", "val_dice 0.6000"),
        ("finished", 0.8, "", "val_dice 0.8000, best so far"),
        ("pruned", 0.9, "", "pruned at epoch 1, val_dice 0.9000"),
        ("failed", None, "killed by SIGKILL", "failed: killed by SIGKILL"),
    ],
)
def test_how_a_trial_ended(state, val_dice, detail, line):
    stream = io.StringIO()
    progress = Progress(stream, Clock())
    progress.study(1, 0, BASE, best=0.7)
    progress.trial_started(0, CONFIG)
    progress.epoch(0, report(1, 0.5))
    progress.trial_ended(0, state, val_dice, detail)
    assert stream.getvalue() == f"trial 1/1  dice, filters 16  {line}\n"


def test_a_trial_is_described_by_what_varies():
    config = TrainConfig(loss="dice", filters=16, epochs=4, learning_rate=0.00123, augmentation="flip", seed=1)
    assert describe(config, BASE) == "dice, filters 16, augmentation flip, learning_rate 0.0012, seed 1"


def test_jobs_at_once_are_counted(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    progress = Progress(stream, Clock())
    progress.study(2, 0, BASE, None)
    progress.trial_started(0, CONFIG)
    progress.trial_started(1, CONFIG)
    assert stream.getvalue().endswith("trial 2/2  starting  2 at once  dice, filters 16")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.7, "1 min"), (90, "2 min"), (3599, "1 h 00 min"), (11100, "3 h 05 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (45, "45"),
        (999, "999"),
        (1234, "1.23 k"),
        (999_999, "1 M"),
        (45_600_000, "45.6 M"),
        (7.89e11, "789 G"),
    ],
)
def test_short(count, text):
    assert short(count) == text
