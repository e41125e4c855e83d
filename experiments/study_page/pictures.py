"""What the best trial gets right and wrong, and where the best two arms disagree most."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import cv2
import numpy as np

from experiments.jobs.split_predictions import SplitPredictions
from experiments.storage.stored_study import TrialRow
from experiments.studies.comparison import arms
from experiments.studies.study_result import final_folder
from experiments.study_page.record import StudyRecord
from experiments.study_page.sections import note, section, words
from seg.data.manifest import Manifest, is_foreground
from seg.overlay import PURPLE, Colour, Picture, class_colour, tiles
from seg.page import Html, element, picture

_DISAGREEMENTS = 4


def overlays(record: StudyRecord) -> Html:
    """Best, median and worst image of the registered trial, else the winner: of the test split, else of validation."""
    title = "What the best trial sees" if record.shown == record.winner else "What the registered trial sees"
    if record.shown is None:
        return section("overlays", title, note("No trial finished."))
    for split in ("test", "val"):
        found = record.predictions(record.shown, split)
        if found is not None and record.manifest is not None:
            chosen = quantiles(found.dice, record.manifest.records(split)[..., 3])
            names = file_names(record.manifest, split, chosen.values())
            shown = (
                _exhibit(
                    f"{kind} image: Dice {found.dice[index]:.3f}",
                    names[index],
                    _tiles(record.manifest, split, index, found),
                )
                for kind, index in chosen.items()
            )
            told = f"Best, median and worst of the {len(found.dice):,} images of {split}."
            return section("overlays", title, words(told), _legend(record.manifest.classes), *shown)
    return section("overlays", title, *_old_panels(record, record.shown))


def disagreements(record: StudyRecord) -> Html:
    """The validation images on which the best trials of the two best arms differ most."""
    title = "Where the best two arms disagree"
    trials = {row.number: row for row in record.study.rows}
    best = [(arm.name, trials[arm.best_trial]) for arm in arms(record.rows) if arm.best_trial is not None][:2]
    if len(best) < 2:
        return section("disagreements", title, note("Fewer than two arms finished."))
    (one_name, one), (other_name, other) = best
    predicted = [record.predictions(row, "val") for row in (one, other)]
    manifest, first, second = record.manifest, *predicted
    if manifest is None or first is None or second is None:
        missing = [str(row.number) for row, found in zip((one, other), predicted, strict=True) if found is None]
        return section(
            "disagreements",
            title,
            note(f"No predictions on this dataset's validation split are left of trial {' and '.join(missing)}."),
        )
    agreement = agree(first, second)
    order = np.lexsort((-different(first, second), agreement))[:_DISAGREEMENTS]
    chosen = [int(index) for index in order if agreement[index] < 1]
    if not chosen:
        return section("disagreements", title, words("They predict the same mask on every validation image."))
    names = file_names(manifest, "val", chosen)
    shown = (
        _exhibit(
            f"Dice of the two predictions: {agreement[index]:.3f}",
            names[index],
            {
                "image": (found := _tiles(manifest, "val", index, first))["image"],
                "truth": found["truth"],
                f"{one_name}: Dice {first.dice[index]:.3f}": found["prediction"],
                f"{other_name}: Dice {second.dice[index]:.3f}": _tiles(manifest, "val", index, second)["prediction"],
            },
        )
        for index in chosen
    )
    told = (
        f"Trial {one.number} ({one_name}) and trial {other.number} ({other_name}) on the {len(agreement):,} validation "
        f"images: their masks have a Dice of {agreement.mean():.3f} with each other on average. Least alike:"
    )
    return section("disagreements", title, words(told), *shown)


def quantiles(dice: np.ndarray, masks: np.ndarray) -> dict[str, int]:
    """Best, median and worst image with foreground (any, where none has some): an empty one tells nothing.

    Args:
        dice: (images,) of each image.
        masks: (images, size, size) uint8, of records.
    """
    candidates = [index for index, mask in enumerate(masks) if is_foreground(mask).any()] or list(range(len(masks)))
    order = sorted(candidates, key=lambda index: (-dice[index], index))
    return {"Best": order[0], "Median": order[len(order) // 2], "Worst": order[-1]}


def agree(one: SplitPredictions, other: SplitPredictions) -> np.ndarray:
    """Dice between two models' masks of each image, (images,); 1 where both are empty."""
    common = _count(one.packed & other.packed)
    sizes = _count(one.packed) + _count(other.packed)
    return np.where(sizes > 0, 2 * common / np.maximum(sizes, 1), 1.0)


def different(one: SplitPredictions, other: SplitPredictions) -> np.ndarray:
    """Pixels of each image that only one of two models calls foreground, (images,)."""
    return _count(one.packed ^ other.packed)


def _count(packed: np.ndarray) -> np.ndarray:
    return np.bitwise_count(packed).sum(axis=1, dtype=np.int64)


def file_names(manifest: Manifest, split: str, indices: Iterable[int]) -> dict[int, str]:
    """File names of some images of a split, by position."""
    wanted = set(indices)
    rows = enumerate(islice(manifest.examples(split), max(wanted) + 1))
    return {index: example.file_name for index, example in rows if index in wanted}


def _tiles(manifest: Manifest, split: str, index: int, found: SplitPredictions) -> dict[str, Picture]:
    record = np.ascontiguousarray(manifest.records(split)[index])
    return tiles(record[..., :3], record[..., 3], found.mask(index))


def _exhibit(title: str, file_name: str, shown: Mapping[str, Picture]) -> Html:
    figures = (
        element("figure", picture(tile, f"{label} of {file_name}"), element("figcaption", label))
        for label, tile in shown.items()
    )
    heading = element("h3", title, element("span", file_name, class_="file"))
    return element("div", heading, element("div", *figures, class_="tiles"), class_="exhibit")


def _legend(classes: Sequence[str]) -> Html:
    kinds = {"hit": "true positive", "extra": "false positive", "missed": "false negative"}
    keys = [element("span", element("i", class_=name), text) for name, text in kinds.items()]
    if len(classes) == 1:
        return element("p", "In the difference: ", *keys, class_="legend")
    keys.append(_key("another class", PURPLE))
    names = (_key(name, class_colour(label)) for label, name in enumerate(classes, start=1))
    return element("p", "Classes: ", *names, " In the difference: ", *keys, class_="legend")


def _key(text: str, colour: Colour) -> Html:
    return element("span", element("i", style=f"background:rgb{colour}"), text)


def _old_panels(record: StudyRecord, shown: TrialRow) -> Iterator[Html]:
    """The pictures that every version leaves, where there are no predictions to draw."""
    folder = record.folder(shown)
    folders = [] if folder is None else [("test", final_folder(folder)), ("val", folder)]
    for split, candidate in folders:
        panels = {name: cv2.imread(str(candidate / "panels" / f"{name}_0.png")) for name in ("best", "worst")}
        found = {name: panel[..., ::-1] for name, panel in panels.items() if panel is not None}
        if found:
            yield words(f"One of the best and one of the worst images of {split}.")
            for name, panel in found.items():
                yield element("div", picture(panel, f"{name} image of {split}"), class_="drawing")
            yield note(f"No predictions of the {split} split are left, so the median image cannot be drawn.")
            return
    yield note("The trial's files are no longer in the workspace.")
