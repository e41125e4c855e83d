"""The arms image by image: means with intervals, differences of pairs, sizes of object, empty images."""

from collections.abc import Iterator

from experiments.reports.compared import Compared
from experiments.study_page.record import StudyRecord
from experiments.study_page.sections import note, section, words
from seg.comparison import Difference
from seg.page import Html, element, table
from seg.statistics import Interval

_TITLE = "How sure the comparison is"
_NONE = "–"


def pairs(record: StudyRecord) -> Html:
    """Everything that the verdict rests on."""
    found = record.compared
    if found is None:
        why = record.missing or "A search compares nothing."
        return section("pairs", _TITLE, note(f"The arms are not compared image by image: {why}"))
    return section("pairs", _TITLE, *_arms(found), *_differences(found), *_sizes(found))


def _arms(found: Compared) -> Iterator[Html]:
    result = found.result
    drawn = f", in {result.groups:,} groups that are drawn whole" if result.groups else ""
    yield words(
        f"Mean Dice of the {result.images:,} validation images{drawn}, over the seeds {_listed(found)} that all arms "
        "share. Another choice of images moves it, and so does another choice of seeds."
    )
    heads = ["arm", "Dice", "95 %: other images", "95 %: other images and seeds", *(f"seed {s}" for s in found.seeds)]
    rows = (
        [
            found.arms[arm].name,
            f"{result.arms[arm].images.mean:.3f}",
            _bounds(result.arms[arm].images),
            _bounds(_possible(result.arms[arm].both)),
            *(f"{mean:.3f}" for mean in result.arms[arm].by_seed),
        ]
        for arm in result.order
    )
    yield table(heads, rows, best=0)


def _differences(found: Compared) -> Iterator[Html]:
    yield element("h3", "Pair by pair")
    heads = [
        "higher",
        "lower",
        "difference",
        "95 %",
        "p",
        "p, all pairs",
        "Wilcoxon, all pairs",
        "ahead on",
        "different",
    ]
    yield table(heads, (_pair(found, pair) for pair in found.result.differences))
    yield note(
        "p: probability that equal arms would part this far, other images and other seeds taken into account; all "
        "pairs: after Holm's correction; different: at most 5 %. Wilcoxon's test knows these trained models only, not "
        "other seeds, and decides nothing. Ahead on: share of the images, over all seeds, ties counted half. See "
        "docs/protocol.md."
    )


def _pair(found: Compared, pair: Difference) -> list[str]:
    return [
        found.arms[pair.first].name,
        found.arms[pair.second].name,
        f"{pair.mean:+.3f}",
        _NONE if pair.interval is None else f"{pair.interval.low:+.3f} to {pair.interval.high:+.3f}",
        _NONE if pair.interval is None else _chance(pair.chance),
        _NONE if pair.interval is None else _chance(pair.chance_of_all),
        _chance(pair.wilcoxon_of_all),
        f"{pair.superiority:.0%}",
        "yes" if pair.different else "not shown",
    ]


def _sizes(found: Compared) -> Iterator[Html]:
    yield element("h3", "By size of the object, and on empty images")
    first = found.by_size[0]
    sizes = [f"{size.name}: {size.smallest:.1%} to {size.largest:.1%}" for size in first]
    rows = (
        [
            found.arms[arm].name,
            *(f"{size.dice.mean:.3f} [{_bounds(size.dice)}]" for size in found.by_size[arm]),
            *([_share(found.false_positives[arm])] if found.empty else []),
        ]
        for arm in found.result.order
    )
    yield table(["arm", *sizes, *(["false positives"] if found.empty else [])], rows, best=0)
    thirds = ", ".join(f"{size.images:,} {size.name}" for size in first)
    told = f"Thirds of the images with foreground by the share of the image that it fills ({thirds}). "
    if found.empty:
        told += f"False positives: share of the {found.empty:,} validation images without foreground in which "
        told += "anything is predicted."
    else:
        told += "There are no validation images without foreground: false positives on such ones are not known."
    yield note(told)


def _listed(found: Compared) -> str:
    return ", ".join(map(str, found.seeds))


def _bounds(interval: Interval | None) -> str:
    return _NONE if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"


def _possible(interval: Interval | None) -> Interval | None:
    return None if interval is None else interval.within(0.0, 1.0)


def _share(interval: Interval | None) -> str:
    return _NONE if interval is None else f"{interval.mean:.0%} [{interval.low:.0%} to {interval.high:.0%}]"


def _chance(chance: float) -> str:
    return "< 0.001" if chance < 0.001 else f"{chance:.3f}"
