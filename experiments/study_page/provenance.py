"""What was run, with what, and how to run it again."""

import shlex

from experiments.command_line.options import OPTIONS
from experiments.study_page.record import StudyRecord
from experiments.study_page.sections import note, section, words
from seg.page import Html, element

_STUDIED = ("loss", "filters")  # of which study, too, takes several values


def provenance(record: StudyRecord) -> Html:
    """Command, settings, data and versions."""
    parts = [
        words("Run it again, or let it go on, with:"),
        _command(record.origin.command if record.origin else _likely(record)),
    ]
    if record.origin is None:
        parts.append(
            note(
                "The study's own command is not known: it was interrupted, or made by an older version. This one has "
                "its settings; put the export's folder, and your own workspace and storage, in."
            )
        )
    study, manifest = record.study, record.manifest
    settings = {name: _text(value) for name, value in study.settings.items()}
    settings |= {"sampler": study.sampler, "objective": study.objective}
    data = {"dataset": study.dataset_name, "key": study.dataset_key, "split": study.split}
    if manifest is not None:
        data |= {
            name: f"{split.examples:,} images, {split.empty:,} without foreground"
            for name, split in manifest.splits.items()
        }
        data |= {f"conversion: {name}": _text(value) for name, value in manifest.settings.items()}
    run = {"MLflow run": study.run_id or "none"}
    if record.origin is not None:
        run |= {"code": record.origin.git_commit or "outside a repository", "machine": record.origin.machine}
        run |= dict(record.origin.versions)
    tables = (_definitions("Settings", settings), _definitions("Data", data), _definitions("Run", run))
    parts.append(element("div", *tables, class_="columns"))
    return section("provenance", "What was run, and how to run it again", *parts)


def _command(line: str) -> Html:
    """Breaks lines between options only, and is one line again when it is copied."""
    first, *options = line.split(" --")
    words = (element("span", f" --{option}") for option in options)
    return element("pre", element("code", first, *words), tabindex=0)


def _likely(record: StudyRecord) -> str:
    options = {"data": record.study.dataset_name, "study": record.study.study, "sampler": record.study.sampler}
    options |= {"objective": record.study.objective} if record.study.objective != "dice" else {}
    converted = {} if record.manifest is None else record.manifest.settings
    options |= {
        name: _text(value) for name, value in converted.items() if name in OPTIONS and value != OPTIONS[name].default
    }
    settings = dict(record.study.settings)
    others = [name for name, value in settings.items() if isinstance(value, list) and name not in _STUDIED]
    compared = bool(others) or "design" in settings
    if compared:
        del options["sampler"]
        arms = {name: _text(settings.pop(name)) for name in others if name != "learning_rate"}
        options["arms"] = ";".join(f"{name}={values}" for name, values in arms.items())
    options |= {"split": record.study.split} | {name: _text(value) for name, value in settings.items()}
    verb = "compare" if compared else "study"
    return shlex.join(
        ["python", "-m", f"experiments.{verb}", *(f"--{name}={value}" for name, value in options.items())]
    )


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _definitions(title: str, values: dict[str, str]) -> Html:
    lines = (element("tr", element("th", name, scope="row"), element("td", value)) for name, value in values.items())
    table = element("table", element("caption", title), element("tbody", *lines), class_="definitions")
    return element("div", table, class_="table")
