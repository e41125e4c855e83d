"""What people read of a `Reproduction`: a table for the terminal, a page for MLflow, and one sentence."""

from experiments.reproduction.reproduction import MEASURES, Difference, Reproduction

_INSTALL = "pip install "
_HEAD = ("", "then", "now", "to restore it")


def sentence(found: Reproduction) -> str:
    """The outcome in plain words, one line."""
    # Another commit with the same code in what trains explains nothing.
    causes = ", ".join(_phrase(difference) for difference in found.differences if difference.kind != "commit")
    if found.same:
        arrays, epochs = found.weights.arrays, found.history.epochs_now
        although = f" What differs made no difference: {causes}." if causes else ""
        return (
            f"The same: all {arrays} weight arrays and the scores of {epochs} epochs are equal bit for bit.{although}"
        )
    return _plain(f"Not the same: {_outcome(found)}. {_explanation(found, causes)}")


def _outcome(found: Reproduction) -> str:
    weights, history = found.weights, found.history
    if weights.bit_equal:
        moved = "the weights are equal bit for bit, but not the recorded scores"
    elif weights.only_then or weights.only_now:
        alone = f"{len(weights.only_then)} only then, {len(weights.only_now)} only now"
        moved = f"the models do not have the same arrays ({alone})"
    else:
        far = "" if weights.max_difference is None else f" by up to {weights.max_difference:.2g}"
        moved = f"{len(weights.differing)} of {weights.arrays} weight arrays differ{far}"
    change = history.val_dice_now - history.val_dice_then
    return f"{moved}; val_dice is {history.val_dice_now:.4f} and was {history.val_dice_then:.4f} ({change:+.4f})"


def _explanation(found: Reproduction, causes: str) -> str:
    if found.history.equal:
        return (
            "Every epoch has the scores that it had, so this is the same training: model.keras of the run is not what "
            "that training left."
        )
    if not causes:
        return (
            "Nothing recorded explains it: the record of the run was changed, or the arithmetic of this device does "
            "not repeat itself."
        )
    remedies = [difference.remedy for difference in found.differences if difference.remedy]
    pins = [remedy.removeprefix(_INSTALL) for remedy in remedies if remedy.startswith(_INSTALL)]
    return f"What differs: {causes}." + (f" To restore the packages: {_INSTALL}{' '.join(pins)}" if pins else "")


def _phrase(difference: Difference) -> str:
    if difference.kind == "unknown":
        return "the run did not record its environment, so that nothing more can be said"
    if difference.kind == "code":
        return f"code ({difference.name})"
    return f"{difference.name} ({_short(difference.then)} then, {_short(difference.now)} now)"


def _rows(found: Reproduction) -> list[tuple[str, str, str, str]]:
    weights, history = found.weights, found.history
    if weights.bit_equal:
        state = f"all {weights.arrays} arrays bit-equal"
    else:
        where = f", furthest {weights.furthest}" if weights.furthest else ""
        largest = "not finite" if weights.max_difference is None else f"{weights.max_difference:.3g}"
        state = f"{len(weights.differing)} arrays differ, by up to {largest}{where}"
    rows = [
        ("weights", f"{weights.arrays + len(weights.only_then)} arrays", state, ""),
        ("epochs", str(history.epochs_then), str(history.epochs_now), ""),
        ("best epoch", str(history.best_epoch_then), str(history.best_epoch_now), ""),
        ("val_dice", repr(history.val_dice_then), repr(history.val_dice_now), ""),
    ]
    for name in MEASURES:
        rows.append((f"{name}, per epoch", "", f"moves by up to {history.largest[name]:.3g}", ""))
    if history.first_difference is not None:
        rows.append(("first difference", "", f"epoch {history.first_difference}", ""))
    rows += [(difference.name, difference.then, difference.now, difference.remedy) for difference in found.differences]
    return rows


def table(found: Reproduction) -> str:
    """For the terminal: one line per measurement and difference."""
    rows = [tuple(_short(cell) for cell in row) for row in [_HEAD, *_rows(found)]]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows]
    return "\n".join([f"run {_plain(found.run_then)} again, dataset {_plain(found.dataset_key)}", *lines])


def markdown(found: Reproduction) -> str:
    """The page: the sentence, then everything at full length."""
    lines = [
        "# The same training again",
        "",
        _escaped(sentence(found)),
        "",
        f"Run `{found.run_now}` trained `{found.run_then}` again on dataset `{found.dataset_key}`. The artifact "
        "`reproduction.json` holds the same for programs.",
        "",
        "| | then | now | to restore it |",
        "|---|---|---|---|",
        *(f"| {' | '.join(map(_escaped, row))} |" for row in _rows(found)),
    ]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text of a run, which anybody may have edited, without what would steer a terminal or a table."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _short(text: str) -> str:
    text = _plain(text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _escaped(text: str) -> str:
    escaped = _plain(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|" else character for character in escaped)
