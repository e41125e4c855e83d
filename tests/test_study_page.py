"""The report: complete, escaped, self-contained; what is missing is named."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments.jobs.split_predictions import SplitPredictions
from experiments.reports.arms_json import as_json
from experiments.storage.stored_study import Selection, TestUse, TrialRow
from experiments.studies.comparison import winner
from experiments.studies.study_origin import StudyOrigin, origin_file
from experiments.study_page import study_page
from experiments.study_page.per_image import MOST_ROWS
from experiments.study_page.pictures import agree, different, quantiles
from experiments.study_page.record import StudyRecord, gather
from seg.config import ARCHITECTURES, TrainConfig
from tests.study_workspace import EVALUATION, INTERVAL, image, trial, write_workspace
from tests.test_page import Read

HOSTILE = "</td></style><script>alert('x')</script><img src=http://evil.example onerror=alert(1)>&\""


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    workspace = tmp_path_factory.mktemp("workspace")
    return gather(write_workspace(workspace), workspace)


@pytest.fixture(scope="module")
def page(record: StudyRecord) -> str:
    return study_page(record)


class TestPage:
    def test_the_question_and_the_answer_come_first(self, page: str) -> None:
        text = Read(page).text
        told = [
            "Which loss for tiny?",
            "dice scored highest, but the comparison is not decided: one seed per arm.",
            "0.750 [0.700, 0.800]",
            "On 5 test images, which no trial saw, trial 1 has a Dice of 0.750 (95 % interval: 0.700 to 0.800).",
            "That is clearly better than copying the mask",
            "The arms compared",
            "Learning curves",
            "What the best trial sees",
            "Where the best two arms disagree",
            "Image by image",
            "What the audit found in the data",
            "What accuracy costs",
            "Every trial",
            "python -m experiments.main --data='my scans'",
        ]
        places = [text.find(part) for part in told]
        assert -1 not in places
        assert places == sorted(places)

    def test_it_needs_no_network_and_links_within_itself(self, page: str) -> None:
        tags = Read(page).tags
        sources = [attributes["src"] or "" for tag, attributes in tags if tag == "img"]
        assert all(re.match("data:image/(png|jpeg|svg[+]xml);base64,", source) for source in sources)
        anchors = {attributes.get("href") for tag, attributes in tags if tag == "a"}
        sections = {f"#{attributes['id']}" for tag, attributes in tags if tag == "section"}
        assert anchors == sections | {"audit/audit.html"}
        assert [tag for tag, _ in tags].count("script") == 1
        assert "link" not in [tag for tag, _ in tags]
        assert "url(" not in page

    def test_best_median_and_worst_in_four_tiles_each(self, page: str) -> None:
        captions = re.findall("<figcaption>(image|truth|prediction|difference)</figcaption>", page)
        assert captions[: 3 * 4] == ["image", "truth", "prediction", "difference"] * 3
        assert re.findall("(Best|Median|Worst) image: Dice", page) == ["Best", "Median", "Worst"]

    def test_disagreements_show_both_predictions(self, page: str) -> None:
        assert "Trial 1 (dice) and trial 0 (bce) on the 7 validation images" in page
        assert len(re.findall(r"<figcaption>dice: Dice [01]\.\d{3}</figcaption>", page)) >= 1

    def test_images_are_sorted_and_sortable(self, page: str) -> None:
        table = page[page.index('id="images"') : page.index('id="audit"')]
        assert re.findall(r"<td>test/(\d).png</td>", table) == ["4", "3", "2", "1", "0"]
        assert '<td data-value="0.5">0.500</td>' in table
        assert '<td data-value="1007.0">1,007</td><td data-value="1024.0">1,024</td>' in table
        assert 'class="sortable"' in table

    def test_audit_the_worst_first(self, page: str) -> None:
        assert page.index("a finding") < page.index("a note")
        assert "<b>1,234</b>" in page

    def test_cost(self, page: str) -> None:
        table = page[page.index('id="trials"') : page.index('id="provenance"')]
        assert "2 finished, 1 failed; 4 min of training in total" in table  # 3 · 90 s
        # Trial, loss, state, val_dice, epochs, parameters, multiply-adds, milliseconds, images per second, time.
        assert Read(table).text.count("finished0.75021,23456 M28.020.02 min") == 1
        assert "killed by SIGKILL" in table

    def test_what_accuracy_costs(self, page: str) -> None:
        text = Read(page[page.index('id="costs"') : page.index('id="trials"')]).text
        # The wide one scores higher, and the narrow one is faster.
        assert "By latency, from the fastest: trial 0 (0.500, 10.0 ms), trial 1 (0.750, 28.0 ms)." in text
        assert "Registered" not in text
        assert 'alt="Validation Dice of every trial against its latency' in page

    def test_a_trial_that_was_registered_for_its_cost(self, record: StudyRecord, tmp_path: Path) -> None:
        workspace = tmp_path / "chosen"
        shutil.copytree(record.workspace, workspace)
        final = next(workspace.glob("studies/unet/final_0001_*"))
        final.rename(final.with_name("final_0000_aaaaaaaa"))
        chosen = Selection(trial=0, rule="smallest-within-1se", best=1, standard_error=0.5, because="it is <small>")
        found = gather(replace(record.study, selection=chosen), workspace)
        assert found.scored == found.shown == found.rows[0]
        assert found.winner == found.rows[1]
        text = Read(study_page(found)).text
        for part in (
            "Registered: trial 0 (select=smallest-within-1se), because it is <small>.",
            "Trial 0 was registered: it is <small>.",
            "trial 0's test Dice",
            "On 5 test images, which no trial saw, trial 0 has a Dice of 0.750",
            "What the registered trial sees",
        ):
            assert part in text
        assert json.loads(as_json(found))["selection"]["trial"] == 0

    def test_a_registered_trial_that_was_not_scored(self, record: StudyRecord) -> None:
        """A process that died between the two."""
        chosen = Selection(trial=0, rule="smallest-within-1se", best=1, standard_error=0.5, because="it is small")
        found = gather(replace(record.study, selection=chosen), record.workspace)
        assert found.scored == found.winner == found.rows[1]
        assert "Registered: trial 0" in Read(study_page(found)).text

    def test_trials_of_an_older_version_have_no_cost(self, record: StudyRecord) -> None:
        rows = tuple(replace(row, cost=None) for row in record.study.rows)
        text = Read(study_page(replace(record, study=replace(record.study, rows=rows)))).text
        assert "Fewer than two finished trials have a known cost." in text
        assert "–: trials of an older version, whose cost was not measured." in text

    def test_what_was_run(self, page: str) -> None:
        text = Read(page).text
        for part in ("learning_rate0.001", "lossbce,dice", "keytiny-0", "codeabc", "numpy2", "MLflow runcccccccc3"):
            assert part in text


class TestHostile:
    """Names from outside are text wherever they appear."""

    def test_every_name_is_escaped(self, tmp_path: Path) -> None:
        study = write_workspace(tmp_path, file_name=HOSTILE, finding=HOSTILE)
        dataset = tmp_path / "datasets" / "tiny-0"
        for split in ("val", "test"):
            lines = [json.loads(line) for line in (dataset / f"{split}.jsonl").read_text().splitlines()]
            (dataset / f"{split}.jsonl").write_text(
                "".join(json.dumps(line | {"file_name": HOSTILE}) + "\n" for line in lines)
            )
        study = replace(
            study,
            dataset_name=HOSTILE,
            split=HOSTILE,
            settings={HOSTILE: HOSTILE},
            rows=(*study.rows, trial(3, "bce", None, state="failed", reason=HOSTILE)),
        )
        origin = StudyOrigin(command=HOSTILE, versions={HOSTILE: HOSTILE}, git_commit=HOSTILE, machine=HOSTILE)
        origin.save(origin_file(tmp_path, "unet", "cccccccc3"))
        found = Read(study_page(gather(study, tmp_path)))
        assert [tag for tag, _ in found.tags].count("script") == 1
        assert not any("onerror" in attributes for _, attributes in found.tags)
        assert all((attributes["src"] or "").startswith("data:") for tag, attributes in found.tags if tag == "img")
        # Title, heading, pictures, table, finding, reason, settings, data, command, versions, footer.
        assert found.text.count(HOSTILE) >= 20


class TestMissing:
    """What is gone is named, and the rest of the page stands."""

    def test_nothing_but_the_storage(self, tmp_path: Path) -> None:
        workspace = tmp_path / "full"
        study = write_workspace(workspace)
        text = Read(study_page(gather(study, tmp_path / "empty"))).text
        for part in (
            "The best trial was not scored on the test split",
            "The dataset is no longer in the workspace",
            "The trial's files are no longer in the workspace.",
            "No predictions on this dataset's validation split are left of trial 1 and 0.",
            "was not scored image by image",
            "This dataset was not audited",
            "The study's own command is not known",
            "python -m experiments.study --data=tiny --study=unet",
        ):
            assert part in text

    def test_panels_of_an_older_version(self, record: StudyRecord, tmp_path: Path) -> None:
        workspace = tmp_path / "old"
        shutil.copytree(record.workspace, workspace)
        for path in workspace.glob("studies/unet/*/*_predictions.npz"):
            path.unlink()
        final = next(workspace.glob("studies/unet/final_*"))
        (final / "panels").mkdir()
        cv2.imwrite(str(final / "panels" / "best_0.png"), np.zeros((20, 80, 3), np.uint8))
        found = study_page(gather(record.study, workspace))
        assert 'alt="best image of test"' in found
        assert "No predictions of the test split are left, so the median image cannot be drawn." in found

    def test_validation_where_test_was_not_used(self, record: StudyRecord, tmp_path: Path) -> None:
        workspace = tmp_path / "unscored"
        shutil.copytree(record.workspace, workspace)
        shutil.rmtree(next(workspace.glob("studies/unet/final_*")))
        assert "Best, median and worst of the 7 images of val." in study_page(gather(record.study, workspace))

    @pytest.mark.parametrize("pattern", ["*/evaluation.json", "*/per_image.csv", "*/*.npz", "study_*.json"])
    @pytest.mark.parametrize("content", ["", "[]"])
    def test_damaged_files(self, record: StudyRecord, tmp_path: Path, pattern: str, content: str) -> None:
        shutil.copytree(record.workspace / "studies", tmp_path / "studies")
        damaged = list((tmp_path / "studies" / "unet").glob(pattern))
        assert damaged
        for path in damaged:
            path.write_text(content)
        assert "Which loss for tiny?" in study_page(gather(record.study, tmp_path))

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": 1, "findings": [{}]}'])
    def test_damaged_audit(self, record: StudyRecord, tmp_path: Path, content: str) -> None:
        (tmp_path / "audits" / "tiny-0").mkdir(parents=True)
        (tmp_path / "audits" / "tiny-0" / "audit.json").write_text(content)
        assert "This dataset was not audited" in study_page(gather(record.study, tmp_path))

    def test_predictions_of_another_dataset_are_not_drawn(self, record: StudyRecord, tmp_path: Path) -> None:
        shutil.copytree(record.workspace, tmp_path / "other")
        for path in (tmp_path / "other").glob("studies/unet/*/*_predictions.npz"):
            replace(SplitPredictions.load(path), dataset_key="other").save(path)
        assert "are left of trial 1 and 0" in study_page(gather(record.study, tmp_path / "other"))

    def test_a_study_without_a_trial(self, tmp_path: Path) -> None:
        study = replace(write_workspace(tmp_path), rows=())
        text = Read(study_page(gather(study, tmp_path))).text
        assert "No trial finished: there is no answer yet." in text
        assert "How well does a U-Net segment tiny?" in text

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_the_question_names_the_network(self, tmp_path: Path, architecture: str) -> None:
        study = write_workspace(tmp_path)
        study = replace(study, rows=(), settings=study.settings | {"architecture": architecture})
        asked = re.search(r"How well does an? (.*?) segment tiny\?", Read(study_page(gather(study, tmp_path))).text)
        assert asked
        letters = re.sub("[^a-z0-9+]", "", asked[1].lower()).replace("+", "plus")
        assert letters == architecture.replace("_", "")

    def test_a_study_whose_only_trial_died(self, tmp_path: Path) -> None:
        dead = TrialRow(number=0, state="failed", config=None, val_dice=None, run_id=None, reason="died", seconds=None)
        study = replace(write_workspace(tmp_path), rows=(dead,))
        assert "died" in Read(study_page(gather(study, tmp_path))).text


class TestWords:
    @pytest.mark.parametrize(
        ("low", "mean", "words"),
        [
            (0.61, 0.7, "clearly better than copying"),
            (0.55, 0.7, "a little better than copying"),
            (0.5, 0.6, "not better than copying"),
        ],
    )
    def test_beside_the_copy(self, record: StudyRecord, low: float, mean: float, words: str) -> None:
        scores = {"dice": {"mean": mean, "low": low, "high": 0.8}}
        assert words in study_page(replace(record, evaluation=EVALUATION | {"scores": scores}))

    def test_the_winner_is_of_the_best_arm_and_not_the_luckiest_trial(self, record: StudyRecord) -> None:
        # bce has the best mean (0.6), and dice the best trial (0.75, beside 0.25).
        second = TrainConfig(loss="dice", image_size=16, depth=1, filters=2, seed=1)
        other = TrainConfig(loss="bce", image_size=16, depth=1, filters=2, seed=1)
        rows = (
            trial(0, "bce", 0.6),
            trial(1, "dice", 0.75),
            trial(2, "dice", 0.25, config=second),
            trial(3, "bce", 0.55, config=other),
        )
        found = winner(rows)
        assert found is not None
        assert found.number == 0

    def test_a_study_that_went_on_after_its_test_use(self, record: StudyRecord, tmp_path: Path) -> None:
        use = TestUse(trial=1, at="2026-01-02T03:04:05+00:00")
        rows = (replace(record.study.rows[0], val_dice=0.9), *record.study.rows[1:])
        study = replace(record.study, rows=rows, test_uses=(use,))
        found = gather(study, record.workspace)
        assert (found.winner.number, found.scored.number) == (0, 1)
        text = Read(study_page(found)).text
        assert "The test split was used for trial 1 and is not used again: the best trial is now 0" in text

    def test_the_optimism_gap(self, record: StudyRecord) -> None:
        use = TestUse(trial=1, at="2026-01-02T03:04:05+00:00")
        study = replace(record.study, test_uses=(use,))
        found = replace(record, study=study, evaluation=EVALUATION | {"validation_dice": 0.8})
        text = Read(study_page(found)).text
        assert "its Dice is 0.800: +0.050 is the optimism gap" in text
        assert "used once for it, on 2026-01-02 at 03:04 UTC" in text

    @pytest.mark.parametrize(("tta", "gap"), [("none", "+0.050"), ("square", None)])
    def test_of_several_classes_it_is_that_of_training_if_decided_so(
        self, record: StudyRecord, tmp_path: Path, tta: str, gap: str | None
    ) -> None:
        workspace = tmp_path / "classes"
        shutil.copytree(record.workspace, workspace)
        evaluation = EVALUATION | {"threshold": None, "threshold_curve": {}, "tta": tta, "largest_component": "no"}
        evaluation["scores"] = {"dice": INTERVAL | {"mean": 0.7}}  # val_dice is 0.75
        next(workspace.glob("studies/unet/final_*/evaluation.json")).write_text(json.dumps(evaluation))
        found = gather(record.study, workspace)
        assert (found.optimism_gap is not None and f"{found.optimism_gap:+.3f}") == (gap or False)
        told = "by the highest class as well, its Dice is 0.750: +0.050 is the optimism gap"
        assert (told in Read(study_page(found)).text) == (gap is not None)


def test_a_command_that_is_not_known_is_made_of_the_settings(record: StudyRecord) -> None:
    assert record.manifest is not None
    manifest = replace(record.manifest, settings={"classes": "left,right", "crowds": "ignore"})
    study = replace(record.study, settings=dict(record.study.settings) | {"design": "one_at_a_time"})
    page = study_page(replace(record, origin=None, study=study, manifest=manifest))
    command = next(line for line in Read(page).text.split("python -m experiments.") if line.startswith("compare "))
    for part in ("--design=one_at_a_time", "--classes=left,right", "--loss=bce,dice"):
        assert part in command
    assert "--crowds" not in command


def test_a_search_shows_what_made_the_difference(record: StudyRecord) -> None:
    rates = (0.001, 0.002, 0.004, 0.008)
    rows = tuple(
        trial(number, "bce", 0.5 + number / 10, config=TrainConfig(learning_rate=rate), run_id=None)
        for number, rate in enumerate(rates)
    )
    pruned = trial(4, "bce", 0.3, state="pruned", config=TrainConfig(learning_rate=0.1), run_id=None)
    found = study_page(replace(record, study=replace(record.study, sampler="tpe", rows=(*rows, pruned))))
    assert "Which learning rate for tiny?" in found
    assert "The search found learning_rate 0.008" in found
    assert 'alt="Share of the variance of validation Dice that each option explains"' in found
    assert "4 finished, 1 pruned" in found


def test_thousands_of_images_are_limited(record: StudyRecord) -> None:
    images = tuple(image(0, f"{index}.png") for index in range(MOST_ROWS + 1))
    found = study_page(replace(record, images=images))
    assert found.count(".png</td>") == MOST_ROWS
    assert "The 5,000 lowest are shown; all 5,001 are in final/per_image.csv." in found


def predictions(*masks: list[int]) -> SplitPredictions:
    packed = np.packbits(np.array(masks, np.uint8), axis=1)
    return SplitPredictions(packed=packed, dice=np.zeros(len(masks)), image_size=2, dataset_key="key")


def test_agreement_of_two_models() -> None:
    one = predictions([1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0])
    other = predictions([0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0])
    # One pixel in common of 2 + 3: 2/5; both empty: 1; one of them empty: 0.
    assert agree(one, other).tolist() == [0.4, 1.0, 0.0]
    assert different(one, other).tolist() == [3, 0, 1]


def test_quantiles_leave_out_what_is_empty() -> None:
    masks = np.zeros((5, 1, 1), np.uint8)
    masks[1:] = 1
    dice = np.array([1.0, 0.2, 0.9, 0.5, 0.5])
    assert quantiles(dice, masks) == {"Best": 2, "Median": 4, "Worst": 1}
    assert quantiles(np.array([0.0]), np.zeros((1, 1, 1), np.uint8)) == {"Best": 0, "Median": 0, "Worst": 0}
