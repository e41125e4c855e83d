"""The comparison of two trainings: each thing that differs is named, with the values worked out here."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.reproduction.reproduction import (
    Difference,
    Reproduction,
    compare_environments,
    compare_histories,
)
from experiments.reproduction.reproduction_report import markdown, sentence, table
from experiments.reproduction.weights import compare_weights
from seg.training.result import EpochReport, TrainResult
from tests.test_environment import MADE


def result(*val_dice: float, speed: float = 10.0) -> TrainResult:
    history = tuple(
        EpochReport(epoch=n, train_loss=1 / n, val_loss=2 / n, val_dice=dice, images_per_second=speed, seconds=speed)
        for n, dice in enumerate(val_dice, start=1)
    )
    best = max(history, key=lambda report: report.val_dice)
    return TrainResult(
        stop_reason="epochs",
        best_epoch=best.epoch,
        val_dice=best.val_dice,
        parameters=5,
        replicas=1,
        batch_size=2,
        model="model.keras",
        history=history,
    )


def reproduction(now: float = 1.0, then_dice=(0.5, 0.6), now_dice=(0.5, 0.6), differences=()) -> Reproduction:
    return Reproduction(
        run_then="then",
        run_now="now",
        dataset_key="key",
        weights=compare_weights({"a": np.ones(2)}, {"a": np.array([1.0, now])}),
        history=compare_histories(result(*then_dice), result(*now_dice)),
        differences=tuple(differences),
    )


def test_speed_is_no_difference():
    found = compare_histories(result(0.5, 0.6), result(0.5, 0.6, speed=99.0))
    assert found.equal
    assert found.largest == {"train_loss": 0.0, "val_loss": 0.0, "val_dice": 0.0}


def test_where_the_epochs_part():
    found = compare_histories(result(0.5, 0.75, 0.5), result(0.5, 0.5, 0.25))
    assert not found.equal
    assert (found.first_difference, found.largest["val_dice"]) == (2, 0.25)
    assert (found.best_epoch_then, found.best_epoch_now, found.val_dice_now) == (2, 1, 0.5)


def test_one_training_is_longer():
    found = compare_histories(result(0.5, 0.6), result(0.5))
    assert (found.epochs_then, found.epochs_now, found.first_difference) == (2, 1, 2)
    assert not found.equal


@pytest.mark.parametrize(
    ("change", "kind", "name", "values", "remedy"),
    [
        ({"python": "3.11.8"}, "python", "python", ("3.11.8", "3.11.9"), ""),
        (
            {"packages": {"tensorflow": "2.21.0", "numpy": "2.3.1"}},
            "package",
            "numpy",
            ("2.3.1", "2.4.6"),
            "pip install numpy==2.3.1",
        ),
        (
            {"packages": {"tensorflow": "2.21.0"}},
            "package",
            "numpy",
            ("none", "2.4.6"),
            "pip uninstall numpy",
        ),
        ({"cpu": "Other CPU"}, "machine", "cpu", ("Other CPU", "Some CPU"), ""),
        ({"instructions": "avx2"}, "machine", "instructions", ("avx2", "avx2 fma"), ""),
        ({"system": "Linux aarch64"}, "machine", "system", ("Linux aarch64", "Linux x86_64"), ""),
        ({"cores": 8}, "machine", "cores", ("8", "2"), ""),
        ({"devices": ("CPU", "CPU")}, "devices", "devices", ("CPU, CPU", "CPU"), ""),
        ({"threads": {"intra_op": 1, "inter_op": 0}}, "threads", "intra_op threads", ("1", "one per core"), ""),
        ({"flags": {}}, "flag", "OMP_NUM_THREADS", ("none", "2"), "unset OMP_NUM_THREADS"),
        (
            {"code": {"seg/losses.py": "abd"}, "git_commit": "9876"},
            "code",
            "seg/losses.py",
            ("9876", "0123"),
            "git checkout 9876",
        ),
        (
            {"code": {"seg/losses.py": "abd"}, "git_commit": "9876-dirty"},
            "code",
            "seg/losses.py",
            ("9876-dirty", "0123"),
            "",
        ),
        ({"git_commit": "9876"}, "commit", "commit", ("9876", "0123; what trains is the same"), ""),
        ({"uncommitted": "fe"}, "commit", "commit", ("0123", "0123; what trains is the same"), ""),
    ],
)
def test_each_difference_of_the_environment_is_named(change, kind, name, values, remedy):
    (found,) = compare_environments(replace(MADE, **change), MADE)
    assert found == Difference(kind=kind, name=name, then=values[0], now=values[1], remedy=remedy)


@pytest.mark.parametrize(
    "then",
    [
        {"packages": dict(MADE.packages) | {"numpy": "1; rm -rf ~"}},
        {"packages": dict(MADE.packages) | {"--index-url=x": "1"}},
        {"code": {}, "git_commit": "--help"},
    ],
)
def test_no_command_is_made_of_a_record_that_was_edited(then):
    (found,) = compare_environments(replace(MADE, **then), MADE)
    assert found.remedy == ""


def test_equal_environments():
    assert compare_environments(MADE, MADE) == []


def test_many_files_are_counted():
    then = replace(MADE, code={f"seg/{letter}.py": "x" for letter in "abcde"})
    (found,) = compare_environments(then, replace(MADE, code={}))
    assert found.name == "seg/a.py, seg/b.py, seg/c.py and 2 more files"


def test_a_run_without_an_environment():
    (found,) = compare_environments(None, MADE)
    assert found.kind == "unknown"
    assert "did not record its environment" in sentence(reproduction(now=2.0, now_dice=(0.5, 0.7), differences=[found]))


def test_the_same_in_words():
    assert sentence(reproduction()) == "The same: all 1 weight arrays and the scores of 2 epochs are equal bit for bit."


def test_the_same_with_another_package():
    text = sentence(reproduction(differences=compare_environments(replace(MADE, packages={}), MADE)))
    assert text.startswith("The same: ")
    assert text.endswith(
        "What differs made no difference: numpy (none then, 2.4.6 now), tensorflow (none then, 2.21.0 now)."
    )


def test_not_the_same_with_its_cause_and_remedy():
    then = replace(MADE, packages={"tensorflow": "2.20.0", "numpy": "2.3.1"}, git_commit="9876")
    found = reproduction(now=1.25, now_dice=(0.5, 0.55), differences=compare_environments(then, MADE))
    assert sentence(found) == (
        "Not the same: 1 of 1 weight arrays differ by up to 0.25; val_dice is 0.5500 and was 0.6000 (-0.0500). "
        "What differs: numpy (2.3.1 then, 2.4.6 now), tensorflow (2.20.0 then, 2.21.0 now). "
        "To restore the packages: pip install numpy==2.3.1 tensorflow==2.20.0"
    )


def test_not_the_same_without_a_cause():
    text = sentence(reproduction(now=2.0, now_dice=(0.5, 0.7)))
    assert "Nothing recorded explains it" in text


def test_another_model_in_the_place_of_the_recorded_one():
    assert "model.keras of the run is not what that training left" in sentence(reproduction(now=2.0))


def test_other_scores_with_equal_weights():
    found = reproduction(now_dice=(0.4, 0.6))
    assert not found.same
    assert "the weights are equal bit for bit, but not the recorded scores" in sentence(found)


def test_other_arrays():
    found = replace(reproduction(), weights=compare_weights({"a": np.ones(1)}, {"b": np.ones(1)}))
    assert "the models do not have the same arrays (1 only then, 1 only now)" in sentence(found)


def test_json_says_all_and_is_strict():
    found = replace(reproduction(), weights=compare_weights({"a": np.ones(1)}, {"a": np.array([np.nan])}))
    content = json.loads(found.as_json())
    assert content["same"] is False
    assert content["weights"]["max_difference"] is None
    assert content["history"]["val_dice_then"] == 0.6


@given(st.text(), st.text())
def test_no_text_of_a_run_steers_the_terminal_or_the_page(name, value):
    differences = [Difference(kind="configuration", name=name, then=value, now="x")]
    found = reproduction(now=2.0, now_dice=(0.5, 0.7), differences=differences)
    plain = len(table(reproduction(now=2.0, now_dice=(0.5, 0.7))).split("\n"))
    assert len(table(found).split("\n")) == plain + 1
    assert all(line.isprintable() for line in table(found).split("\n"))
    assert sentence(found).isprintable()
    page = markdown(found)
    assert "<" not in page
    assert all(line.replace("\\|", "").count("|") == 5 for line in page.splitlines() if line.startswith("|"))
