import csv
import io
from dataclasses import replace

from experiments.storage.stored_study import TrialRow
from experiments.studies.comparison import arms, as_csv, as_markdown, varied
from seg.config import TrainConfig
from seg.training.result import ModelCost


def row(number, val_dice, state="finished", seconds=10.0, reason="", **options):
    config = TrainConfig(**options)
    return TrialRow(
        number=number, state=state, config=config, val_dice=val_dice, run_id="run", reason=reason, seconds=seconds
    )


ROWS = [
    row(0, 0.5, loss="bce", seed=0, seconds=10.0),
    row(1, 0.75, loss="dice", seed=0, seconds=20.0),
    row(2, 0.6, loss="bce", seed=1, seconds=30.0),
    row(3, None, "failed", loss="dice", seed=1, reason='killed, "by" SIGKILL'),
    row(4, None, "failed", loss="bce_dice"),
]
EMPTY = TrialRow(number=5, state="failed", config=None, val_dice=None, run_id=None, reason="", seconds=None)


def test_only_what_differs_between_arms_varies():
    assert varied(ROWS) == ["loss"]
    assert varied([row(0, 0.5, filters=8, cache="file"), row(1, 0.5, filters=16, loss="dice")]) == ["filters", "loss"]
    assert varied([EMPTY]) == varied([]) == []


def test_arms_join_seeds_and_the_best_mean_comes_first():
    dice, bce, bce_dice = arms([*ROWS, EMPTY])
    assert (dice.values, dice.val_dice, dice.trials, dice.mean) == ({"loss": "dice"}, (0.75,), 2, 0.75)
    assert (bce.values, bce.val_dice, bce.trials, bce.seconds) == ({"loss": "bce"}, (0.5, 0.6), 2, 20.0)
    assert (bce_dice.mean, bce_dice.seconds, bce_dice.trials) == (None, None, 1)


def test_changes_of_one_arm_are_named_by_what_they_change():
    base = {"loss": "dice", "ema": 0.9, "augmentation": "square"}
    changes = [{}, {"ema": 0.0}, {"augmentation": "none"}, {"augmentation": "flip"}]
    rows = [row(number, 0.9 - number / 10, **base | change) for number, change in enumerate(changes)]
    assert [arm.name for arm in arms(rows)] == ["base", "ema 0", "augmentation none", "augmentation flip"]
    assert [arm.name for arm in arms(rows[::3])] == [
        "augmentation square",
        "augmentation flip",
    ]  # one option: its values
    factorial = [row(0, 0.4), row(1, 0.3, ema=0.9), row(2, 0.2, loss="dice"), row(3, 0.1, ema=0.9, loss="dice")]
    assert [arm.name for arm in arms(factorial)] == ["bce, ema 0", "bce, ema 0.9", "dice, ema 0", "dice, ema 0.9"]


def test_changes_of_one_arm_with_a_learning_rate_each():
    base = {"loss": "dice", "ema": 0.9, "augmentation": "square", "learning_rate": 0.003}
    slow, fast = {"learning_rate": 0.001}, {"learning_rate": 1.0}
    changes = [{}, {"ema": 0.0} | slow, {"augmentation": "none"}, {"loss": "bce"} | fast]
    rows = [row(number, 0.9 - number / 10, **base | change) for number, change in enumerate(changes)]
    assert [arm.name for arm in arms(rows)] == [
        "base",
        "learning_rate 0.001, ema 0",
        "augmentation none",
        "bce, learning_rate 1",
    ]
    # The base's own rate may be the one that no other arm chose.
    rows = [row(0, 0.9, ema=0.9), row(1, 0.8, learning_rate=0.01)]
    rows.append(row(2, 0.7, ema=0.9, loss="dice", learning_rate=0.01))
    assert [arm.name for arm in arms(rows)] == ["base", "learning_rate 0.01, ema 0", "dice, learning_rate 0.01"]
    # An arm whose rates are still being tried is several: no design is told from them.
    assert arms([*rows, row(3, 0.6, ema=0.9, loss="dice", learning_rate=0.1)])[0].base is None


def test_learning_rates_that_were_searched_are_no_changes_of_one_arm():
    rows = [row(0, 0.9), row(1, 0.8, learning_rate=0.01), row(2, 0.7, loss="dice", learning_rate=0.02)]
    assert [arm.base for arm in arms(rows)] == [None] * 3


def test_a_pruned_trial_is_no_score_of_its_arm():
    (arm,) = arms([row(0, 0.9, "pruned"), row(1, 0.5)])
    assert arm.val_dice == (0.5,)


def test_csv_holds_every_trial_and_can_be_read_back():
    cost = ModelCost(parameters=5, multiply_adds=60, latency_ms=7.5, images_per_second=8.0)
    table = list(csv.DictReader(io.StringIO(as_csv([replace(ROWS[0], cost=cost), *ROWS[1:], EMPTY]))))
    assert [(entry["multiply_adds"], entry["latency_ms"]) for entry in table[:2]] == [("60", "7.5"), ("", "")]
    assert [entry["trial"] for entry in table] == ["0", "1", "2", "3", "4", "5"]
    assert (table[1]["val_dice"], table[1]["loss"], table[1]["seconds"]) == ("0.75", "dice", "20.0")
    assert (table[3]["val_dice"], table[3]["reason"]) == ("", 'killed, "by" SIGKILL')
    assert table[5]["loss"] == ""


def test_markdown():
    assert as_markdown(ROWS) == (
        "| loss | val_dice | lowest | highest | finished | seconds per trial |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| dice | 0.750 | 0.750 | 0.750 | 1 of 2 | 20 |\n"
        "| bce | 0.550 | 0.500 | 0.600 | 2 of 2 | 20 |\n"
        "| bce_dice | – | – | – | 0 of 1 | – |\n"
    )


def test_floats_are_short():
    assert "| 0.00123 |" in as_markdown([row(0, 0.5, learning_rate=0.00123456), row(1, 0.6, learning_rate=0.1)])


def test_an_arm_knows_its_trials_and_its_name():
    dice, bce, bce_dice = arms(ROWS)
    assert (bce.by_seed, bce.trials_finished, bce.best_trial) == ({0: 0.5, 1: 0.6}, (0, 2), 2)
    assert (dice.best_trial, bce_dice.best_trial) == (1, None)
    (named, _) = arms([row(0, 0.6, loss="dice", filters=8), row(1, 0.5, loss="bce", filters=16)])
    assert named.name == "dice, filters 8"
    assert arms([row(0, 0.5)])[0].name == "the only arm"
