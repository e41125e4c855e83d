"""What MLflow holds of a run is checked field by field; a study means its best trial."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.command_line.options import FIELDS
from experiments.jobs.environment import Environment
from experiments.reproduce import compare_configurations
from experiments.reproduction.recorded_run import (
    RecordedRun,
    dataset_of,
    find_run,
    read_config,
    read_conversion,
    read_result,
    unlike,
)
from experiments.tracking.run_description import dataset_input
from experiments.tracking.tracker import Tracker
from seg.config import TrainConfig
from seg.data.convert import convert
from seg.data.manifest import Manifest
from seg.errors import UserError
from tests.small_export import content, write_export
from tests.test_environment import ANY_JSON, MADE
from tests.test_reproduction import result
from tests.test_weights import write_model

CONFIG = TrainConfig(image_size=16, depth=1, filters=2, batch_size=2, epochs=2, learning_rate=3e-4, seed=7)
PARAMS = {name: str(value) for name, value in CONFIG.as_dict().items()}


class TestConfiguration:
    def test_comes_back(self) -> None:
        assert read_config(PARAMS | {"data": "demo"}) == CONFIG

    def test_as_a_person_typed_it(self) -> None:
        assert read_config(PARAMS | {"learning_rate": "3e-4", "image_size": "016"}) == CONFIG

    def test_a_missing_field_has_its_default(self) -> None:
        assert read_config({}) == TrainConfig()

    @pytest.mark.parametrize("text", ["", "1.5", "nan", "9" * 5000])
    def test_another_type(self, text: str) -> None:
        with pytest.raises(UserError, match=r"parameter seed of the run must be of type int"):
            read_config(PARAMS | {"seed": text})

    @given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.text()))
    def test_any_text_is_a_configuration_or_one_error(self, changes: dict[str, str]) -> None:
        try:
            found = read_config(PARAMS | changes)
        except UserError:
            return
        assert isinstance(found, TrainConfig)


class TestResult:
    def test_comes_back(self) -> None:
        made = result(0.5, 0.6)
        assert read_result(json.dumps(asdict(made))) == made
        assert read_result(json.dumps(asdict(made) | {"cost": {"latency_ms": 1.0}})) == made

    @pytest.mark.parametrize("text", ["", "null", "{}", "[" * 100_000])
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(UserError, match=r"^result.json must be as training wrote it"):
            read_result(text)

    @given(field=st.sampled_from(sorted(asdict(result(0.5)))), value=ANY_JSON)
    def test_a_field_of_any_other_kind_is_refused_or_read_as_it_stands(self, field: str, value: object) -> None:
        content = asdict(result(0.5, 0.6))
        try:
            found = read_result(json.dumps(content | {field: value}))
        except UserError:
            return
        assert getattr(found, field) == value

    @given(field=st.sampled_from(sorted(asdict(result(0.5))["history"][0])), value=ANY_JSON)
    def test_an_epoch_holds_finite_numbers(self, field: str, value: object) -> None:
        content = asdict(result(0.5, 0.6))
        content["history"] = [content["history"][0], content["history"][1] | {field: value}]
        try:
            found = read_result(json.dumps(content))
        except UserError:
            return
        assert isinstance(value, float | int)
        assert abs(value) < 1e300
        assert getattr(found.history[1], field) == value
        assert [report.epoch for report in found.history] == [1, 2]

    def test_a_best_epoch_that_there_is_none_of(self) -> None:
        with pytest.raises(UserError, match=r"a best epoch that it has no score of"):
            read_result(json.dumps(asdict(result(0.5)) | {"best_epoch": 2}))


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db", None)


def end_trial(
    tracker: Tracker,
    run_id: str,
    folder: Path,
    state: str = "finished",
    dice: float = 0.6,
    environment: Environment = MADE,
) -> None:
    """Leaves what a training leaves that ended with this score."""
    folder.mkdir()
    made = result(0.1, dice)
    tracker.log_metrics(run_id, {"best_val_dice": made.val_dice})
    tracker.log_text(run_id, json.dumps(asdict(made)), "result.json")
    tracker.log_text(run_id, environment.as_json(), "environment.json")
    write_model(folder / "model.keras", [])
    tracker.log_folder(run_id, folder)
    tracker.end(run_id, state)  # type: ignore[arg-type]


class TestFindRun:
    def test_a_study_means_its_best_trial(self, tracker: Tracker, tiny: Manifest, tmp_path: Path) -> None:
        study = tracker.start_study("widths", {"trials": 4}, tiny)
        scores = {0: ("finished", 0.5), 1: ("finished", 0.7), 2: ("finished", 0.7), 3: ("pruned", 0.9)}
        runs = {}
        for number, (state, dice) in scores.items():
            runs[number] = tracker.start_trial(study, "widths", number, CONFIG, tiny)
            end_trial(tracker, runs[number], tmp_path / str(number), state, dice)
        tracker.end(study, "finished")
        found = find_run(study, tracker, tmp_path / "of_study")
        assert found.record.run_id == runs[1]  # the first of equals; a pruned one has not finished
        assert (found.config, found.dataset_key, found.environment) == (CONFIG, tiny.key, MADE)
        assert (found.assumed, dict(found.unknown)) == ((), {})
        assert found.result.val_dice == 0.7
        pruned = find_run(runs[3], tracker, tmp_path / "of_trial")
        assert pruned.result.val_dice == 0.9

    def test_a_study_without_a_finished_trial(self, tracker: Tracker, tiny: Manifest, tmp_path: Path) -> None:
        study = tracker.start_study("empty", {}, tiny)
        with pytest.raises(UserError, match=r"must have a finished trial, got none"):
            find_run(study, tracker, tmp_path)

    def test_a_run_that_did_not_finish(self, tracker: Tracker, tiny: Manifest, tmp_path: Path) -> None:
        run_id = tracker.start_run("train", CONFIG.as_dict(), tiny)
        with pytest.raises(UserError, match=rf"run {run_id} must have finished, and is RUNNING"):
            find_run(run_id, tracker, tmp_path)
        tracker.end(run_id, "failed", "out of memory")
        with pytest.raises(UserError, match=r"and is FAILED"):
            find_run(run_id, tracker, tmp_path)

    def test_a_run_that_trained_nothing(self, tracker: Tracker, tiny: Manifest, tmp_path: Path) -> None:
        run_id = tracker.start_run("evaluate test", {}, tiny)
        tracker.end(run_id, "finished")
        with pytest.raises(UserError, match=r"must have the artifact result.json, got none; choose a run that trained"):
            find_run(run_id, tracker, tmp_path)

    @pytest.mark.parametrize(
        ("run_id", "message"), [("", "run must be the id"), ("0" * 32, "must be in"), ("../x", "must be in")]
    )
    def test_no_run(self, tracker: Tracker, tmp_path: Path, run_id: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            find_run(run_id, tracker, tmp_path)

    def test_a_run_of_another_version(self, tracker: Tracker, tiny: Manifest, tmp_path: Path) -> None:
        params = {name: value for name, value in CONFIG.as_dict().items() if name != "cache"}
        run_id = tracker.start_run("train", params | {"momentum": 0.9, "workspace": "here"}, tiny)
        end_trial(tracker, run_id, tmp_path / "run")
        found = find_run(run_id, tracker, tmp_path / "found")
        assert [(d.name, d.then, d.now) for d in compare_configurations(found)] == [
            ("cache", "not recorded", "memory"),
            ("momentum", "0.9", "not known to this version"),
        ]

    @pytest.mark.parametrize(
        ("recorded", "trained", "told"),
        [
            ("mixed_bfloat16", "mixed_bfloat16", []),
            ("", "auto", [("precision", "not recorded", "auto, chosen on this machine")]),
        ],
    )
    def test_what_auto_meant_there(
        self, tracker: Tracker, tiny: Manifest, tmp_path: Path, recorded: str, trained: str, told: list[object]
    ) -> None:
        run_id = tracker.start_run("train", replace(CONFIG, precision="auto").as_dict(), tiny)
        end_trial(tracker, run_id, tmp_path / "run", environment=replace(MADE, precision=recorded))
        found = find_run(run_id, tracker, tmp_path / "found")
        assert found.config == replace(CONFIG, precision=trained)
        assert [(d.name, d.then, d.now) for d in compare_configurations(found)] == told

    @pytest.mark.parametrize("key", ["../../etc", "", "a/b", "ключ", "."])
    def test_a_key_that_is_no_name_of_a_dataset(
        self, tracker: Tracker, tiny: Manifest, tmp_path: Path, key: str
    ) -> None:
        run_id = tracker.start_run("train", CONFIG.as_dict(), tiny)
        end_trial(tracker, run_id, tmp_path / "run")
        tracker.log_tags(run_id, {"dataset_key": key})
        with pytest.raises(UserError, match=r"tag dataset_key of the run must be a dataset's key"):
            find_run(run_id, tracker, tmp_path / "found")


class TestDataset:
    def recorded(self, tmp_path: Path, manifest: Manifest, **changes: object) -> RecordedRun:
        from experiments.tracking.run_description import RunRecord

        profile = json.dumps(json.loads(dataset_input(manifest)["dataset"]["profile"]) | changes)
        record = RunRecord(run_id="r", status="FINISHED", params={}, tags={}, dataset=manifest.name, profile=profile)
        return RecordedRun(
            record=record,
            config=TrainConfig(image_size=8, depth=1),
            assumed=(),
            unknown={},
            dataset_key=manifest.key,
            result=result(0.5),
            environment=None,
            model=tmp_path / "model.keras",
        )

    def values(self, workspace: Path, data: Path | str) -> argparse.Namespace:
        return argparse.Namespace(workspace=str(workspace), data=str(data), additional="", run="r")

    def test_from_the_workspace_without_the_data(self, tmp_path: Path) -> None:
        made = convert(write_export(tmp_path / "export"), tmp_path / "workspace", image_size=8, progress=False)
        found = dataset_of(self.recorded(tmp_path, made), self.values(tmp_path / "workspace", tmp_path / "gone"))
        assert found == made

    @pytest.mark.parametrize(
        "settings",
        [{"exif": "rotate"}, {"classes": "lesion"}, {"split": "kfold:3/1", "group_pattern": "(.*)", "split_seed": 3}],
    )
    def test_converted_again_with_the_recorded_settings(self, tmp_path: Path, settings: dict[str, object]) -> None:
        export = write_export(tmp_path / "export", valid=content(2, first=2), test=content(2, first=4))
        made = convert(export, tmp_path / "first", image_size=8, progress=False, **settings)  # type: ignore[arg-type]
        found = dataset_of(self.recorded(tmp_path, made), self.values(tmp_path / "second", export))
        assert (found.key, found.splits) == (made.key, made.splits)
        assert found.folder.is_relative_to(tmp_path / "second")

    def test_data_with_other_images_is_named(self, tmp_path: Path) -> None:
        made = convert(write_export(tmp_path / "export"), tmp_path / "first", image_size=8, progress=False)
        other = write_export(tmp_path / "other", train=content(3), valid=content(2, first=5))
        message = r"the dataset must have the run's key, .*: train has 3 images and had 2"
        with pytest.raises(UserError, match=message):
            dataset_of(self.recorded(tmp_path, made), self.values(tmp_path / "second", other))

    def test_data_with_another_image_is_named(self, tmp_path: Path) -> None:
        export = write_export(tmp_path / "export")
        made = convert(export, tmp_path / "first", image_size=8, progress=False)
        image = export / "valid" / "image0.png"
        image.write_bytes((export / "train" / "image1.png").read_bytes())
        with pytest.raises(UserError, match=r"the images or masks of val are others\. Give data"):
            dataset_of(self.recorded(tmp_path, made), self.values(tmp_path / "second", export))

    def test_annotations_in_other_words_are_named(self, tmp_path: Path) -> None:
        export = write_export(tmp_path / "export")
        made = convert(export, tmp_path / "first", image_size=8, progress=False)
        file = export / "train" / "_annotations.coco.json"
        file.write_text(file.read_text() + "\n")
        with pytest.raises(UserError, match=r"so the annotation files or this project's conversion changed"):
            dataset_of(self.recorded(tmp_path, made), self.values(tmp_path / "second", export))

    def test_without_data_it_is_asked_for(self, tmp_path: Path) -> None:
        made = convert(write_export(tmp_path / "export"), tmp_path / "first", image_size=8, progress=False)
        with pytest.raises(UserError, match=r"\('export'\) must be in .*; give data"):
            dataset_of(self.recorded(tmp_path, made), self.values(tmp_path / "second", "demo"))

    @given(
        changes=st.fixed_dictionaries({}, optional=dict.fromkeys(("settings", "split", "train"), ANY_JSON)),
        settings=st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("crowds", "classes", "split_seed", "other"), ANY_JSON)
        ),
    )
    def test_any_profile_is_used_or_refused_in_one_line(
        self, tiny: Manifest, changes: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        known = {"categories": "all", "crowds": "ignore", "exif": "ignore", "overlaps": "union"}
        division = {"group_pattern": "", "group_column": "", "split_seed": 0}
        profile = {"split": "grouped", "settings": known | division | settings} | changes
        try:
            found, divided = read_conversion(profile)
        except UserError:
            return
        added = {"on_bad": "skip", "classes": profile["settings"].get("classes", "binary")}
        assert found == {name: profile["settings"][name] for name in known} | added
        assert all(isinstance(value, str) for value in found.values())
        assert isinstance(divided.seed, int)
        assert divided.split == profile["split"]
        assert all(isinstance(line, str) for line in unlike(profile, tiny))
