"""The benchmark's harness: who measures when, what is made of the numbers, and what of contenders that fail."""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.__main__ import PARTS, build_parser, chosen_cases, chosen_parts, main, read_setting
from benchmarks.harness import NOT_INSTALLED, Case, CaseResult, Contender, Outcome, Target, run_case
from benchmarks.machine import describe
from benchmarks.parts import quality
from benchmarks.parts.scaling import replica_contenders
from benchmarks.plot import plot
from benchmarks.sample import sample
from benchmarks.setting import Setting
from seg.data.convert import convert
from seg.data.demo import write_demo
from seg.data.layout import find_splits
from seg.errors import UserError

MACHINE = {
    "cpu": "a processor",
    "gpus": ["a GPU"],
    "instructions": ["avx2"],
    "cores": 2,
    "threads": 2,
    "clock": "wall",
    "memory_gb": 8.0,
    "system": "Linux",
    "python": "3.11",
    "load": [0.1],
    "load_at_end": [0.2],
    "versions": {"keras": "3.15.1"},
}


def case(*contenders: Contender, **changes: Any) -> Case:
    return Case("part", "name", "images/s", contenders, **{"rounds": 3} | changes)


def fake(title: str, function: str, **settings: Any) -> Contender:
    return Contender(title, f"tests.fake_contenders:{function}", settings)


def result(higher_is_better: bool = True) -> CaseResult:
    """Gains by round of ours over `peer`: 2, 4, 3 where more is better; of `slow` there is nothing."""
    target = Target("three times the peer", "ours", ("peer", "slow"), 3.0)
    contenders = tuple(Contender(name, "") for name in ("ours", "peer", "slow"))
    found = case(*contenders, higher_is_better=higher_is_better, targets=(target,))
    outcomes = {
        "ours": Outcome([20, 40, 90], peak_mb=512),
        "peer": Outcome([10, 10, 30]),
        "slow": Outcome(note=NOT_INSTALLED),
    }
    return CaseResult(found, outcomes, seconds=75)


class TestNumbers:
    def test_a_gain_is_the_median_of_the_ratios_within_a_round(self) -> None:
        assert result().gain("ours", "peer") == 3  # the ratio of the medians would be 4

    def test_where_less_is_better(self) -> None:
        assert result(higher_is_better=False).gain("ours", "peer") == pytest.approx(1 / 3)

    def test_no_gain_over_what_was_not_measured(self) -> None:
        assert result().gain("ours", "slow") is None
        assert result().gain("slow", "ours") is None

    def test_a_target_counts_the_best_of_those_that_were_measured(self) -> None:
        target = Target("", "ours", ("peer", "better", "slow"), 3.0)
        found = result()
        found.outcomes["better"] = Outcome([20, 20, 60])  # ratios 1, 2, 1.5
        assert found.reached(target) == 1.5
        assert found.reached(Target("", "ours", ("slow",), 3.0)) is None

    def test_medians(self) -> None:
        assert Outcome([3, 1, 2]).median == 2
        assert results.metrics([result()]) == {"part/name/ours": 40, "part/name/peer": 10}

    def test_the_table(self) -> None:
        text = results.table(MACHINE, [result()])
        assert "| name (images/s, 3 rounds) | ours | 40 | 20 to 90 |  | 512 |  |" in text
        assert "|  | peer | 10 | 10 to 30 | 3.00 | 0 |  |" in text
        assert "Measured in 75 s, preparing included." in text
        assert f"| slow | – | – | – | – | {NOT_INSTALLED} |" in text
        assert "| part: name | three times the peer | 3.00 | 3.00 | reached |" in text
        assert "2 threads for each contender, wall time" in text

    def test_a_missed_target_is_said(self) -> None:
        assert "| 0.33 | **missed** |" in results.table(MACHINE, [result(higher_is_better=False)])

    def test_the_json_has_every_round(self) -> None:
        content = results.as_json(MACHINE, "python -m benchmarks", [result()])
        (found,) = json.loads(json.dumps(content))["cases"]
        assert found["contenders"]["ours"]["values"] == [20, 40, 90]
        assert found["contenders"]["peer"]["gain of ours"] == 3
        assert found["targets"][0]["found"] == 3

    def test_the_plot_shows_each_contender_that_was_measured(self) -> None:
        (axis,) = plot([result()]).axes
        assert [text.get_text() for text in axis.get_legend().get_texts()] == ["peer"]
        assert [text.get_text() for text in axis.get_yticklabels()] == ["name"]

    def test_the_machine(self) -> None:
        found = describe(1)
        assert found["threads"] == 1
        assert found["versions"]["keras"] != "not installed"
        assert found["cores"] >= 1


def test_more_replicas_where_there_are_more_gpus() -> None:
    def devices(gpus: list[str]) -> list[tuple[str, str, str]]:
        found = replica_contenders({"filters": 16}, gpus)
        return [(one.name, one.settings["devices"], one.environment.get("CUDA_VISIBLE_DEVICES", "-")) for one in found]

    assert devices([]) == devices(["a"]) == [("1 replica", "cpu:1", "-"), ("2 replicas", "cpu:2", "-")]
    assert devices(list("abcde")) == [
        ("1 replica", "auto", "a"),
        ("2 replicas", "auto", "a,b"),
        ("4 replicas", "auto", "a,b,c,d"),
    ]


class TestContenders:
    def test_they_take_turns_and_the_order_turns_round(self, tmp_path: Path) -> None:
        asked = str(tmp_path / "asked")
        one = fake("a", "series", name="a", values=[1, 2, 3], asked=asked)
        other = fake("b", "series", name="b", values=[{"value": 4, "more": "x"}, 5, 6], asked=asked)
        found = run_case(case(one, other), tmp_path, threads=1)
        assert (tmp_path / "asked").read_text(encoding="utf-8") == "abbaab"
        assert found.outcomes["a"].values == [1, 2, 3]
        assert found.outcomes["b"].values == [4, 5, 6]
        assert found.outcomes["a"].peak_mb > 1
        assert "what a library prints" in (tmp_path / "part_name_a.log").read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            ("refuses", r"failed: ValueError: cannot prepare; see part_name_bad\.log"),
            ("dies", r"failed: its process died \(7\); see part_name_bad\.log"),
            ("hangs", "failed: took more than 10 s"),
        ],
    )
    def test_one_that_fails_costs_no_other(self, function: str, reason: str, tmp_path: Path) -> None:
        good = fake("good", "series", name="", values=[1, 2, 3], asked=str(tmp_path / "asked"))
        found = run_case(case(fake("bad", function), good), tmp_path, threads=1, timeout=10)
        assert re.fullmatch(reason, found.outcomes["bad"].note)
        assert not found.outcomes["bad"].values
        assert found.outcomes["good"].values == [1, 2, 3]

    def test_a_missing_peer_is_a_row(self, tmp_path: Path) -> None:
        peer = Contender("peer", "tests.fake_contenders:refuses", needs=("json", "no_such_package"))
        good = fake("good", "series", name="", values=[1, 2, 3], asked=str(tmp_path / "asked"))
        found = run_case(case(good, peer), tmp_path, threads=1)
        assert found.outcomes["peer"].note == "not installed: pip install -e '.[bench]'"
        assert not list(tmp_path.glob("*peer*"))
        assert "| peer | – |" in results.table(MACHINE, [found])

    def test_the_processors_clock_stands_still_while_a_contender_waits(self, tmp_path: Path) -> None:
        (wall, processor) = (
            run_case(case(fake("waits", "waits"), rounds=1), tmp_path, 1, clock).outcomes["waits"].values[0]
            for clock in ("wall", "processor")
        )
        assert processor < 0.25 <= wall

    def test_what_they_leave_is_removed(self, tmp_path: Path) -> None:
        found = run_case(case(fake("leaves", "leaves", told=str(tmp_path / "told"))), tmp_path, threads=1)
        assert found.outcomes["leaves"].values == [1, 1, 1]
        assert not Path((tmp_path / "told").read_text(encoding="utf-8")).exists()
        assert {path.name for path in tmp_path.iterdir()} == {"told", "part_name_leaves.log"}

    def test_progress(self, tmp_path: Path) -> None:
        said: list[str] = []
        contender = fake("a", "series", name="", values=[{"value": 2, "note": "so"}], asked=str(tmp_path / "asked"))
        run_case(case(contender, rounds=1), tmp_path, threads=1, say=said.append)
        assert re.fullmatch(r"prepared in \d+ s", said[0])
        assert said[1:] == ["round 1 of 1: a 2 images/s so"]

    @pytest.mark.skipif(sys.platform != "linux", reason="cores are given to processes on Linux only")
    def test_threads_are_those_of_the_case(self, tmp_path: Path) -> None:
        greeted = Contender("told", "tests.fake_contenders:told", environment={"GREETING": "hello"})
        found = run_case(case(greeted, rounds=1), tmp_path, threads=1).outcomes["told"]
        assert (found.values, found.note, found.facts) == ([1], "hello", {"cores": 1})


class TestSample:
    def test_each_split_gives_its_share(self, tmp_path: Path) -> None:
        write_demo(tmp_path / "demo", train=2, valid=1, test=1)  # of ten slices each
        folder = sample(tmp_path / "demo", tmp_path, 20)
        assert [len(json.loads(split.annotations.read_bytes())["images"]) for split in find_splits(folder)] == [
            10,
            5,
            5,
        ]
        manifest = convert(folder, tmp_path, image_size=32, on_bad="skip", progress=False)
        assert {name: split.examples for name, split in manifest.splits.items()} == {"train": 10, "val": 5, "test": 5}

    def test_a_small_export_is_taken_as_it_is(self, tmp_path: Path) -> None:
        write_demo(tmp_path / "demo", train=1, valid=1, test=1)
        assert sample(tmp_path / "demo", tmp_path, 30) == tmp_path / "demo"


class TestQuality:
    """Whose time is a bound, and of what: with a training that only waits."""

    def test_a_training_that_takes_too_long_is_stopped_where_it_is(self) -> None:
        started = time.monotonic()
        with quality.stopped_after(0.2):
            time.sleep(60)
        assert 0.2 <= time.monotonic() - started < 30

    def test_one_that_is_done_in_time_is_not(self) -> None:
        with quality.stopped_after(0.2):
            pass
        time.sleep(0.3)

    def test_the_others_get_so_many_times_our_time(self, tmp_path: Path) -> None:
        settings = {"scratch": str(tmp_path), "dice": 0.5, "longest": 60, "limit": 3.2}
        assert quality.limit(settings | {"first": True}) == 60
        with pytest.raises(RuntimeError, match="seg did not get there, so there is no time to compare with"):
            quality.limit(settings)
        found = quality.found(10.0, 0.5, settings | {"first": True})
        assert found == {"value": 10.0, "note": "Dice 0.500", "dice": 0.5}
        assert quality.limit(settings) == pytest.approx(32)
        assert quality.found(32.0, 0.4, settings)["note"] == "stopped there at Dice 0.400: a lower bound"

    def test_ours_has_to_get_there(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match=r"Dice was 0\.400 after 60 s"):
            quality.found(60.0, 0.4, {"scratch": str(tmp_path), "dice": 0.5, "first": True})


class TestCommand:
    def test_parts(self) -> None:
        assert chosen_parts("all", "full") == PARTS
        assert set(chosen_parts("all", "short")) < set(PARTS)
        assert chosen_parts("study,convert", "short") == ("study", "convert")
        with pytest.raises(UserError, match=r"parts must be all or some of convert, .* got 'speed'"):
            chosen_parts("convert,speed", "full")

    def test_cases(self, tmp_path: Path) -> None:
        setting = Setting("full", tmp_path, tmp_path, threads=2)
        (found,) = chosen_cases(["training_step"], "filters 8, 256 px, mixed", setting)
        assert found.name == "filters 8, 256 px, mixed_bfloat16"
        assert len(chosen_cases(["training_step"], "", setting)) == 17  # four widths, two sizes, two formats; the peak
        message = r"cases must be part of the name of one, got 'filters 9'; there are: filters 8, 128 px, float32; "
        with pytest.raises(UserError, match=message):
            chosen_cases(["training_step"], "filters 9", setting)

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("--rounds=0", "rounds must be at least 1, got 0"),
            ("--threads=-1", "threads must be from 0, for all cores, to .* got -1"),
            ("--clock=processor", "use threads=1 and parts of convert,.*, got threads=0 and parts=all"),
            ("--clock=processor --threads=1 --parts=quality", "parts of convert,.*, got threads=1 and parts=quality"),
            ("--threads=100000", "threads must be from 0, for all cores, to .* got 100000"),
        ],
    )
    def test_numbers_out_of_range(self, option: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=message):
            read_setting(build_parser().parse_args([*option.split(), f"--workspace={tmp_path}"]))

    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    def test_the_parts_measure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
        # `scaling` is made of what `training_step` and `study` run, and takes as long as they.
        parts = [part for part in PARTS if part != "scaling"]
        options = ["--mode=tiny", "--rounds=1", f"--parts={','.join(parts)}", f"--workspace={tmp_path / 'workspace'}"]
        assert main(options) == 0
        content = json.loads((tmp_path / "benchmark" / "results.json").read_text(encoding="utf-8"))
        assert list(dict.fromkeys(found["part"] for found in content["cases"])) == parts
        for found in content["cases"]:
            for name, outcome in found["contenders"].items():
                if outcome["note"] != NOT_INSTALLED:
                    assert outcome["values"], f"{found['name']}: {name}: {outcome['note']}"
        assert (tmp_path / "benchmark" / "results.png").stat().st_size > 10_000
        assert "## Targets" in capsys.readouterr().out

        import mlflow

        (run,) = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_runs(["1"])
        assert run.info.status == "FINISHED"
        assert run.data.params["mode"] == "tiny"
        assert len(run.data.metrics) > 10
