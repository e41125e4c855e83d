"""No file that a command reads can run code, and nothing listens beyond this machine; SECURITY.md promises both."""

import ast
import os
import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.jobs.split_predictions import SplitPredictions
from experiments.registry.registry import ModelInfo
from seg.data.manifest import Manifest
from seg.errors import UserError

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("seg/**/*.py"), *ROOT.glob("experiments/**/*.py"), *ROOT.glob("benchmarks/**/*.py")])
# What each call must say, by what it ends with.
REQUIRED = {"np.load": ("allow_pickle", False), "models.load_model": ("safe_mode", True)}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
LISTENERS = {  # the only modules that open a port
    "experiments/app.py",
    "experiments/dashboard.py",
    "experiments/serve.py",
}


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._trace,)


def calls(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The calls in a file as they are written, with their constant keyword arguments."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            given = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
            found.append((ast.unparse(node.func), given))
    return found


def test_every_call_that_reads_a_model_or_an_array_refuses_code() -> None:
    seen = set()
    for path in MODULES:
        for called, given in calls(path):
            for name, (option, value) in REQUIRED.items():
                if called.endswith(name):
                    seen.add(name)
                    assert given.get(option) is value, f"{path.relative_to(ROOT)}: {called} needs {option}={value}"
    assert seen == set(REQUIRED)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_reads_pickles(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & PICKLES


def test_who_opens_a_port_and_on_which_address() -> None:
    opening = re.compile(r"create_server\(|\.bind\(|make_server\(|\.launch\(|HTTPServer\(|(?<!event)\.listen\(")
    found = {str(path.relative_to(ROOT)) for path in MODULES if opening.search(path.read_text(encoding="utf-8"))}
    assert {name for name in found if name.startswith(("seg/", "experiments/"))} == LISTENERS
    from experiments import app, dashboard, serve

    assert serve.build_parser().get_default("host") == app.build_parser().get_default("host") == "127.0.0.1"
    assert dashboard._HOST == "127.0.0.1"


@pytest.mark.parametrize("form", ["object array", "bare pickle"])
def test_a_pickle_among_the_records_is_refused(form: str, tiny: Manifest, tmp_path: Path) -> None:
    """As `train` meets it: whoever can replace a record file gets no code to run."""
    shutil.copytree(tiny.folder, tmp_path / "dataset")
    trace = tmp_path / "trace"
    records = tmp_path / "dataset" / "train.npy"
    if form == "object array":
        np.save(records, np.array([Payload(trace)], dtype=object), allow_pickle=True)
    else:
        records.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(UserError, match=r"train\.npy is damaged \(.*; delete .* and run convert"):
        Manifest.load(tmp_path / "dataset")
    assert not trace.exists()
    np.load(records, allow_pickle=True) if form == "object array" else pickle.loads(records.read_bytes())
    assert trace.exists()  # it would have run


def test_a_pickle_among_the_predictions_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "val.npz", masks=np.array([Payload(tmp_path / "trace")], dtype=object))
    with pytest.raises(
        UserError, match="must be readable, got: Object arrays cannot be loaded when allow_pickle=False"
    ):
        SplitPredictions.load(tmp_path / "val.npz")
    assert not (tmp_path / "trace").exists()


def test_a_registered_model_that_is_a_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    from experiments.serving import scoring

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")  # so that it is restored
    trace = tmp_path / "trace"

    class Malicious(mlflow.pyfunc.PythonModel):
        def __init__(self) -> None:
            self.payload = Payload(trace)

        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input

    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Malicious(), pip_requirements=[])
    before = mlflow.get_tracking_uri()
    ours = {name: module for name, module in sys.modules.items() if name == "seg" or name.startswith("seg.")}
    monkeypatch.setattr(ModelInfo, "uri", str(tmp_path / "model"))
    info = ModelInfo(name="seg-unet", version="1", run_id="", test_key="", dice=None)
    try:
        with pytest.raises(
            UserError, match="must be a model that loads without pickles, got: Deserializing model using pickle"
        ):
            scoring.load_served_model(info, f"sqlite:///{tmp_path / 'mlflow.db'}")
    finally:
        mlflow.set_tracking_uri(before)
        sys.modules.update(ours)  # it makes room for the code of a registered model
    assert not trace.exists()
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
