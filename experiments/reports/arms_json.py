"""comparison.json: what the arms of a study say of each other, for programs; docs/compare.md has its keys."""

import json
from dataclasses import asdict
from typing import Any

from experiments.reports.compared import SPLIT, Compared
from experiments.study_page.record import StudyRecord
from seg.comparison import CHANCE, Difference
from seg.crossed import POWER
from seg.statistics import Interval

FORMAT = 1


def as_json(record: StudyRecord) -> str:
    """The comparison of a study's arms, as text; `arms` and `differences` are empty where `missing` says why."""
    study, verdict, found = record.study, record.verdict, record.compared
    content = {
        "format": FORMAT,
        "study": study.study,
        "run_id": study.run_id,
        "dataset": {"name": study.dataset_name, "key": study.dataset_key, "split": study.split},
        "verdict": {"decided": verdict.decided, "sentence": verdict.headline, "reasons": list(verdict.reasons)},
        "missing": record.missing,
        "compared_on": SPLIT,
        "score": "Dice per image at image_size, threshold 0.5",
        "chance": CHANCE,
        "power": POWER,
        "seeds": list(found.seeds) if found else [],
        "images": found.result.images if found else 0,
        "groups": found.result.groups if found else None,
        "empty": found.empty if found else 0,
        "arms": [_arm(record, found, place) for place in found.result.order] if found else [],
        "differences": [_difference(found, pair) for pair in found.result.differences] if found else [],
        "winner": None if record.winner is None else {"trial": record.winner.number, "run_id": record.winner.run_id},
        "selection": asdict(study.selection) if study.selection else None,
        "test": _test(record),
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def comparison_metrics(record: StudyRecord) -> dict[str, float]:
    """What the study's own run shows as numbers: the best arm, its lead over the next, and the optimism gap."""
    metrics = {} if record.optimism_gap is None else {"optimism_gap": record.optimism_gap}
    if record.compared is None:
        return metrics
    result = record.compared.result
    best = result.arms[result.best]
    metrics |= _named("best_arm_val_dice", best.both or best.images)
    nearest = min((pair for pair in result.differences if pair.first == result.best), key=lambda pair: pair.mean)
    metrics |= _named("lead_val_dice", nearest.interval) if nearest.interval else {"lead_val_dice": nearest.mean}
    return metrics | {"lead_p_holm": nearest.chance_of_all}


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _arm(record: StudyRecord, found: Compared, place: int) -> dict[str, Any]:
    arm, score = found.arms[place], found.result.arms[place]
    trials = [arm.trial_by_seed[seed] for seed in found.seeds]
    run_ids = {row.number: row.run_id for row in record.rows}
    return {
        "name": arm.name,
        "values": arm.values,
        "trials": trials,
        "run_ids": [run_ids[trial] for trial in trials],
        "dice": asdict(score.images),
        "dice_over_seeds": asdict(score.both.within(0, 1)) if score.both else None,
        "dice_by_seed": list(score.by_seed),
        "by_size": [asdict(size) for size in found.by_size[place]],
        "false_positive_rate": None if (rate := found.false_positives[place]) is None else asdict(rate),
    }


def _difference(found: Compared, pair: Difference) -> dict[str, Any]:
    return {
        "first": found.arms[pair.first].name,
        "second": found.arms[pair.second].name,
        "mean": pair.mean,
        "interval": [pair.interval.low, pair.interval.high] if pair.interval else None,
        "p": pair.chance,
        "p_holm": pair.chance_of_all,
        "different": pair.different,
        "wilcoxon_p": pair.wilcoxon,
        "wilcoxon_p_holm": pair.wilcoxon_of_all,
        "superiority": pair.superiority,
        "variances": asdict(pair.variances) if pair.variances else None,
        "more_images": pair.more_images,
        "more_seeds": pair.more_seeds,
    }


def _test(record: StudyRecord) -> dict[str, Any]:
    scored, evaluation = record.scored, record.evaluation
    return {
        "uses": [asdict(use) for use in record.study.test_uses],
        "trial": scored.number if scored else None,
        "threshold": evaluation["threshold"] if evaluation else None,
        "dice": dict(evaluation["scores"]["dice"]) if evaluation else None,
        "validation_dice": evaluation.get("validation_dice") if evaluation else None,
        "optimism_gap": record.optimism_gap,
    }
