"""`compare`: which trials are compared, what comparison.json holds, and a whole run on the demo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest

from experiments.compare import build_parser, planned, search_space, train_arms, with_own_rates
from experiments.jobs.split_predictions import SplitPredictions
from experiments.reports.arms_json import as_json, comparison_metrics
from experiments.reports.compared import compare
from experiments.storage.stored_study import TrialRow
from experiments.storage.study_hold import note_test_use
from experiments.storage.study_identity import StudyIdentity
from experiments.storage.study_store import open_study, read_study
from experiments.studies.comparison import arms, own_rates
from experiments.study_page.record import gather
from seg.config import TrainConfig
from seg.errors import UserError
from tests.study_setting import Setting, make_space
from tests.study_workspace import write_workspace
from tests.tiny import write_tiny

ROOT = Path(__file__).parent.parent
KEYS = (
    "format study run_id dataset verdict missing compared_on score chance power seeds images groups empty arms "
    "differences winner selection test"
)
ARM_KEYS = "name values trials run_ids dice dice_over_seeds dice_by_seed by_size false_positive_rate"
PAIR_KEYS = (
    "first second mean interval p p_holm different "
    "wilcoxon_p wilcoxon_p_holm superiority variances more_images more_seeds"
)


def row(number: int, val_dice: float, loss: str = "bce", seed: int = 0, rate: float = 0.1) -> TrialRow:
    config = TrainConfig(loss=loss, seed=seed, learning_rate=rate, image_size=16, depth=1, filters=2)
    return TrialRow(
        number=number, state="finished", config=config, val_dice=val_dice, run_id="r", reason="", seconds=1.0
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny") / "dataset")


class TestCompared:
    """On the tiny dataset: 7 validation images of 16 × 16 pixels."""

    def predictions(self, manifest, right: set[int]) -> SplitPredictions:
        """The truth on some images, everything on the others."""
        masks = manifest.records("val")[..., 3]
        chosen = [mask == 1 if index in right else np.ones_like(mask) for index, mask in enumerate(masks)]
        return SplitPredictions.of(manifest.records("val"), [np.float32(mask) for mask in chosen], 0.5, manifest.key)

    def test_scores_sizes_and_false_positives(self, manifest):
        count = manifest.splits["val"].examples
        everything = self.predictions(manifest, set())
        truth = self.predictions(manifest, set(range(count)))
        rows = [row(0, 0.1), row(1, 1.0, "dice"), row(2, 0.1, seed=1), row(3, 1.0, "dice", seed=1)]
        found = compare(rows, manifest, lambda trial: truth if trial.config.loss == "dice" else everything)
        assert [arm.name for arm in found.arms] == ["dice", "bce"]
        assert found.result.arms[0].images.mean == 1.0
        assert found.result.arms[1].images.mean == pytest.approx(everything.dice.mean())
        assert sum(size.images for size in found.by_size[0]) == count - found.empty
        assert all(size.dice.mean == 1.0 for size in found.by_size[0])
        assert found.empty == manifest.splits["val"].empty
        rates = [rate and rate.mean for rate in found.false_positives]
        assert rates == ([0.0, 1.0] if found.empty else [None, None])

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([row(0, 0.1)], "two arms with a finished trial"),
            ([row(0, 0.1), row(1, 0.2, "dice", seed=1)], "no seed in common"),
            ([row(0, 0.1), row(1, 0.2, "dice")], "left of trial 1, 0"),
        ],
    )
    def test_what_is_missing_is_said(self, manifest, rows, message):
        with pytest.raises(UserError, match=message):
            compare(rows, manifest, lambda trial: None)

    def test_a_dataset_that_is_gone(self):
        with pytest.raises(UserError, match="no longer in the workspace"):
            compare([row(0, 0.1), row(1, 0.2, "dice")], None, lambda trial: None)


def test_each_arm_keeps_its_best_learning_rate():
    rows = [
        row(0, 0.1, rate=0.1),
        row(1, 0.2, rate=0.01),
        row(2, 0.4, "dice", rate=0.1),
        row(3, 0.3, "dice", rate=0.01),
    ]
    kept = own_rates([*rows, row(4, 0.9, rate=0.01, seed=1)], (0.1, 0.01), 0)
    assert [each.number for each in kept] == [1, 2, 4]
    values = build_parser().parse_args(
        ["--learning_rate=0.1,0.01", "--filters=2", "--depth=1", "--image_size=16", "--epochs=20"]
    )
    space = search_space(values)
    configs = with_own_rates(space, rows, seeds=2)
    assert [(config.loss, config.learning_rate, config.seed) for config in configs] == [
        ("bce", 0.01, 0),
        ("dice", 0.1, 0),
        ("bce", 0.01, 1),
        ("dice", 0.1, 1),
    ]


def test_an_arm_whose_better_rate_failed_at_first_has_every_seed_at_it(tmp_path):
    setting = Setting(tmp_path)
    setting.plan({1: "raise"})  # bce at 0.002
    options = ["--loss=bce,dice", "--filters=8", "--depth=3", "--image_size=64", "--epochs=2"]
    space = search_space(build_parser().parse_args([*options, "--learning_rate=0.001,0.002"]))

    def train(configs, adopt):
        return setting.run(len(configs), space=space, configs=configs)

    result = train_arms(space, 2, train, None)
    trained = [
        (row.config.loss, row.config.learning_rate, row.config.seed) for row in result.rows if row.state == "finished"
    ]
    tuning = [("bce", 0.001, 0), ("dice", 0.001, 0), ("dice", 0.002, 0), ("bce", 0.002, 0)]
    assert trained == [*tuning, ("bce", 0.001, 1), ("dice", 0.002, 1), ("bce", 0.002, 1)]
    kept = arms(own_rates(result.rows, space.learning_rates, 0))
    assert [(arm.values["loss"], [*arm.by_seed]) for arm in kept] == [("dice", [0, 1]), ("bce", [0, 1])]
    assert "goes on: 5 of 6 trials are finished" in setting.output.getvalue()
    assert train_arms(space, 2, train, None).ran == 0


def test_how_many_trials_there_will_be():
    arms = ["--loss=bce,dice", "--filters=2", "--depth=1", "--image_size=16"]
    assert planned(search_space(build_parser().parse_args(arms)), seeds=3) == 6
    # Both arms try three rates with the first seed, and train with two more seeds at the rate that they chose.
    several = search_space(build_parser().parse_args([*arms, "--learning_rate=0.1,0.01,0.001"]))
    assert planned(several, seeds=3) == 2 * 3 + 2 * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss=bce", "--filters=8"], "two arms at least, got one"),
        (["--seeds=0"], "seeds must be at least 1, got 0"),
        (["--arms=depth=4,9"], "image_size must be a multiple of 512 for depth 9"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError, match=message):
        search_space(build_parser().parse_args(arguments))


def test_the_test_use_is_noted_once_per_trial(tmp_path):
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    identity = StudyIdentity(
        study="unet", dataset_key="tiny-0", dataset_name="tiny", split="official", space=make_space()
    )
    with open_study(url, identity) as store:
        store.set_parent_run("parent")
        with pytest.raises(UserError, match="one driver"):
            note_test_use(url, "unet", 0)
    assert read_study(url, "unet").test_uses == ()
    note_test_use(url, "unet", 3)
    (use,) = read_study(url, "unet").test_uses
    assert use.trial == 3
    assert use.at.endswith("+00:00")
    note_test_use(url, "unet", 3)
    assert read_study(url, "unet").test_uses == (use,)
    note_test_use(url, "unet", 1)
    assert [each.trial for each in read_study(url, "unet").test_uses] == [3, 1]


class TestJson:
    def test_contract(self, tmp_path):
        record = gather(write_workspace(tmp_path), tmp_path)
        found = json.loads(as_json(record))
        assert list(found) == KEYS.split()
        assert found["verdict"]["sentence"] == record.verdict.headline
        assert [list(arm) for arm in found["arms"]] == [ARM_KEYS.split()] * 2
        assert [list(pair) for pair in found["differences"]] == [PAIR_KEYS.split()]
        (pair,) = found["differences"]
        assert (pair["interval"], pair["different"]) == (None, False)  # one seed
        assert set(found["arms"][0]["by_size"][0]) == {"name", "images", "dice", "smallest", "largest"}
        assert found["test"]["trial"] == 1
        assert set(found["test"]) == {"uses", "trial", "threshold", "dice", "validation_dice", "optimism_gap"}
        assert set(comparison_metrics(record)) >= {"best_arm_val_dice", "lead_val_dice", "lead_p_holm"}

    def test_nothing_to_compare(self, tmp_path):
        record = gather(write_workspace(tmp_path / "full"), tmp_path / "empty")
        found = json.loads(as_json(record))
        assert list(found) == KEYS.split()
        assert (found["arms"], found["differences"]) == ([], [])
        assert "no longer in the workspace" in found["missing"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_command_twice(tmp_path):
    """Two arms at their own learning rates, then a seed more: the test images are used once."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def run(seeds: int, tta: str = "flips", mistake: bool = False) -> str:
        options = {
            "image_size": 32,
            "depth": 1,
            "filters": 2,
            "loss": "bce,dice",
            "epochs": 1,
            "learning_rate": "0.01,0.001",
            "seeds": seeds,
            "workspace": tmp_path / "workspace",
            "storage": f"sqlite:///{tmp_path / 'optuna.db'}",
            "output": tmp_path / "out",
            "tta": tta,
            "largest_component": "yes",
        }
        done = subprocess.run(
            [sys.executable, "-m", "experiments.compare", *(f"--{name}={value}" for name, value in options.items())],
            cwd=tmp_path,
            env=os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == (2 if mistake else 0), done.stderr
        return done.stderr if mistake else done.stdout

    printed = run(1)
    first = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert "one seed per arm" in printed
    (use,) = first["test"]["uses"]
    assert use["trial"] == first["winner"]["trial"] == first["test"]["trial"]
    assert first["test"]["optimism_gap"] == pytest.approx(
        first["test"]["validation_dice"] - first["test"]["dice"]["mean"]
    )
    (scored,) = (tmp_path / "workspace" / "studies").glob("comparison/final_*/evaluation.json")
    evaluation = json.loads(scored.read_text())
    assert (evaluation["tta"], evaluation["largest_component"]) == ("flips", "yes")
    assert "tta must stay flips, with which trial" in run(2, "none", mistake=True)
    printed = run(2)
    assert f"used {use['at']}" in printed
    second = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert second["test"] == first["test"]
    assert (second["seeds"], len(second["arms"])) == ([0, 1], 2)
    assert second["differences"][0]["interval"] is not None
    assert second["verdict"]["sentence"] in printed
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "How sure the comparison is" in page
    client = mlflow.MlflowClient(uri)
    parent = client.get_run(second["run_id"])
    assert parent.data.tags["test_used_at"] == use["at"]
    assert parent.data.tags["verdict"] == second["verdict"]["sentence"]
    assert "optimism_gap" in parent.data.metrics
    names = {file.path for file in client.list_artifacts(second["run_id"])}
    assert {"report.html", "comparison.json", "trials.csv"} <= names
    trials = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{second['run_id']}'")
    assert len(trials) == 2 * 2 + 2  # arms × rates with the first seed, then arms with the second
