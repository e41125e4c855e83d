"""Train arms side by side with the same seeds, and say which is better and how sure that is.

    python -m experiments.compare --data FOLDER --loss bce,dice --filters 8,16 --seeds 3
    python -m experiments.compare --data FOLDER --arms 'depth=3,4;augmentation=none,full' --loss dice --filters 16
    python -m experiments.compare --data FOLDER --arms 'ema=0.99,0;schedule=cosine,constant' --design one_at_a_time

Every combination of the values is an arm, or every change of the first ones in one value; every arm has the same seeds
and epochs. The same command again goes on where it stopped, and one with more seeds adds them. Arms are compared on the
validation images; the test images are used once, for the winner, with `tta` and `largest_component`. Several learning
rates: each arm tries all with the first seed and keeps its best.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from experiments.command_line import datasets, entry
from experiments.command_line.options import FIELDS, OPTIONS, parser, train_config
from experiments.executors import study_executor
from experiments.report import COMPARISON, note_origin, publish_page, write
from experiments.storage.stored_study import TrialRow
from experiments.storage.study_hold import hold_command
from experiments.studies.comparison import own_rates
from experiments.studies.final_test import SCORING, check_scored_alike, score_on_test_once
from experiments.studies.search import SearchSpace, parse_arms, parse_filters, parse_learning_rates, parse_losses
from experiments.studies.study_result import StudyResult
from experiments.study import LISTS, conduct
from experiments.study_page.record import StudyRecord
from experiments.tracking.study_report import publish_study
from experiments.tracking.tracker import Tracker
from seg.config import TrainConfig
from seg.errors import UserError

OVERRIDES = {
    **LISTS,
    **SCORING,
    "learning_rate": replace(
        OPTIONS["learning_rate"],
        type=str,
        default="0.001",
        help="step size of Adam; several, with commas: each arm takes its best on validation with the first seed",
    ),
    "study": replace(OPTIONS["study"], default="comparison"),
    "output": replace(
        OPTIONS["output"],
        default="comparison",
        help="folder for report.html, comparison.json and the audit that the page links to",
    ),
}
STUDY_OPTIONS = ("arms", "design", "seeds", "study", *study_executor.OPTIONS, "storage", "retries", "trial_timeout")


def build_parser() -> argparse.ArgumentParser:
    names = [*datasets.OPTIONS, *STUDY_OPTIONS, "output", *FIELDS, *SCORING]
    return parser("compare", __doc__, names, **OVERRIDES)


def search_space(values: argparse.Namespace) -> SearchSpace:
    """The arms that the options describe.

    Raises:
        UserError: if an arm cannot be trained, or there are too few arms or seeds.
    """
    losses, filters, others = parse_losses(values.loss), parse_filters(values.filters), parse_arms(values.arms)
    rates = parse_learning_rates(values.learning_rate)
    first = {name: choices[0] for name, choices in others.items()}
    base = train_config(values, **{"loss": losses[0], "filters": filters[0], "learning_rate": rates[0]} | first)
    several = rates if len(rates) > 1 else ()
    space = SearchSpace(
        base=base, losses=losses, filters=filters, others=others, learning_rates=several, design=values.design
    )
    if len(space.arms()) < 2:
        raise UserError("a comparison takes two arms at least, got one; give loss, filters or arms several values.")
    if values.seeds < 1:
        raise UserError(f"seeds must be at least 1, got {values.seeds}.")
    return space


def planned(space: SearchSpace, seeds: int) -> int:
    """How many trials a comparison shall have: of arms that choose a learning rate, the first seed is in the choice."""
    arms = len(space.arms())
    return len(space.tuning()) + arms * (seeds - 1) if space.tuning() else arms * seeds


def with_own_rates(space: SearchSpace, rows: Sequence[TrialRow], seeds: int) -> list[TrainConfig]:
    """Every arm at the learning rate that it chose (the first, where it has no trial to go by), with every seed."""
    chosen = {}
    for row in own_rates(rows, space.learning_rates, space.base.seed):
        if row.state == "finished" and row.config is not None:
            chosen[replace(row.config, seed=0, learning_rate=1.0)] = row.config.learning_rate
    arms = [
        replace(arm, learning_rate=chosen.get(replace(arm, seed=0, learning_rate=1.0), arm.learning_rate))
        for arm in space.arms()
    ]
    return [replace(arm, seed=space.base.seed + seed) for seed in range(seeds) for arm in arms]


def train_arms(
    space: SearchSpace,
    seeds: int,
    train: Callable[[Sequence[TrainConfig], str | None], StudyResult],
    adopt: str | None,
) -> StudyResult:
    """Trains every arm with every seed, each at the learning rate of its own where there are several.

    Args:
        train: trains what was not trained yet of these configurations, and adopts that MLflow run, if it is one.
    """
    tuning = space.tuning()
    configs = tuning or space.grid(len(space.arms()) * seeds)
    result = train(configs, adopt)
    while space.learning_rates:
        own = with_own_rates(space, result.rows, seeds)
        wanted = [*tuning, *(config for config in own if config not in tuning)]
        if wanted == configs:
            break
        # Again: what failed may succeed now, and an arm then choose another rate, which it has with one seed only.
        configs = wanted
        result = train(configs, None)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    space = search_space(values)
    tracker = Tracker(launch.tracking_uri, None, values.workspace, f"study_{values.study}")
    manifest = datasets.prepare(values, space.base.image_size)
    with (
        hold_command(values.storage, values.study) as command,
        tracker,
        ExitStack() as opened,
    ):
        scoring = values.tta, values.largest_component
        check_scored_alike(values.storage, values.study, Path(values.workspace), *scoring)
        executor = opened.enter_context(
            study_executor.open_executor(values, space.arms(), planned(space, values.seeds), manifest)
        )

        def train(configs: Sequence[TrainConfig], adopt: str | None) -> StudyResult:
            return conduct(values, space, manifest, tracker, executor, adopt, configs, command.lease)

        result = train_arms(space, values.seeds, train, launch.run_id)
        if (elsewhere := command.ended_elsewhere(result.rows)) is None:
            if space.learning_rates:
                result = replace(result, rows=tuple(own_rates(result.rows, space.learning_rates, space.base.seed)))
            with tracker.ending(result.run_id):
                note_origin("compare", build_parser(), values, result.run_id, launch.tracking_uri)
                publish_study(result, manifest, tracker)
                score_on_test_once(result, manifest, tracker, executor, values.storage, *scoring)
                record = publish_page(values.study, values.storage, Path(values.workspace), tracker)
                tracker.extend_note(
                    result.run_id, f"### {record.verdict.headline}\n\n{' '.join(record.verdict.reasons)}"
                )
    if elsewhere is not None:
        print(elsewhere)
        return entry.done(tracker)
    page = write(record, Path(values.output))
    print(summary(record))
    print(f"page:   {page}, {page.with_name(COMPARISON)}")
    print(f"browse: {tracker.where_to_browse(result.run_id)}")
    return entry.done(tracker)


def summary(record: StudyRecord) -> str:
    """The lines that a person reads at the end."""
    lines = []
    if record.compared is not None:
        result = record.compared.result
        names = [arm.name for arm in record.compared.arms]
        width = max(map(len, names))
        scores = ((arm, result.arms[arm].both or result.arms[arm].images) for arm in result.order)
        lines += [f"  {names[arm]:{width}}  validation Dice {dice.within(0, 1)}" for arm, dice in scores]
    lines.append(record.verdict.headline)
    if record.evaluation is not None and record.scored is not None:
        used = next((f", used {use.at}" for use in record.study.test_uses if use.trial == record.scored.number), "")
        gap = "" if record.optimism_gap is None else f"; optimism gap {record.optimism_gap:+.3f}"
        mean = record.evaluation["scores"]["dice"]["mean"]
        lines.append(f"test{used}: trial {record.scored.number}, Dice {mean:.3f}{gap}")
    return "\n".join(lines)


if __name__ == "__main__":
    entry.run(main)
