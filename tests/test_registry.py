"""Versions, champions, and what travels with a model.

One file, though long: its tests share a store and a model, and each version takes seconds to register.
"""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pytest

from experiments.registry.registry import Registry, check_contender, check_name
from experiments.registry.saved_model import _CODE
from seg.data.appearance import Appearance
from seg.errors import UserError
from tests.test_imports import imported

PROJECT = Path(__file__).parent.parent
REQUIREMENTS = ["mlflow", "tensorflow", "keras", "numpy", "opencv-python-headless", "simplejpeg", "pycocotools"]
TRAINING_IMAGES = Appearance(
    height=(20, 50), width=(31, 90), aspect=(0.8, 1.6), brightness=(100, 150), contrast=(10, 80), colour=1.0
)

BUILD = """
import sys, keras, numpy as np
from pathlib import Path
import seg
folder = Path(sys.argv[1])
keras.utils.set_random_seed(0)
convolution = keras.layers.Conv2D(1, 5, padding="same")
layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 64, offset=-2), convolution]
keras.Sequential(layers).save(folder / "model.keras")
predictor = seg.load(folder)
images = [path.read_bytes() for path in sorted(folder.glob("image*.[jp][pn]g"))]
asked = {"tuned": (0.45, "none"), "high": (0.9, "none"), "flips": (0.45, "flips")}
for name, (threshold, tta) in asked.items():
    found = list(predictor.predict_many(images, threshold, tta))
    np.savez(folder / f"{name}.npz", *[one.mask for one in found])
    np.savez(folder / f"{name}_probability.npz", *[one.probability for one in found])
"""

# What a stranger's process does, somewhere else, without this project and without what the model does not require.
LOAD = """
import base64, json, sys
from importlib import metadata
from pathlib import Path
uri, folder, requirements = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])

from packaging.requirements import Requirement
def name_of(text):
    return text.lower().replace("_", "-")
closure, waiting = set(), [(name, "") for name in requirements]
while waiting:
    name, extra = waiting.pop()
    if (name_of(name), extra) in closure:
        continue
    closure.add((name_of(name), extra))
    try:
        needed = map(Requirement, metadata.requires(name) or [])
    except metadata.PackageNotFoundError:
        continue  # of another system or an extra
    for one in needed:
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            waiting += [(one.name, asked) for asked in {"", *one.extras}]
required = {name for name, _ in closure}
modules = metadata.packages_distributions()
foreign = {module for module, homes in modules.items() if not required & {name_of(home) for home in homes}}
# Where this project is installed: the model brings its own copy, and the finder of the project goes.
foreign -= {"seg"}
sys.meta_path = [finder for finder in sys.meta_path if not finder.__module__.startswith("__editable__")]
class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in foreign:
            raise ModuleNotFoundError(f"No module named {name!r}: it is no requirement of the model", name=name)
sys.meta_path.insert(0, Blocked)
assert {"optuna", "pytest", "hypothesis"} <= foreign and "pycocotools" not in foreign, foreign

import cv2, mlflow, numpy as np, pandas as pd
from pycocotools import mask as pycoco
assert not any((Path(entry) / "experiments").exists() for entry in sys.path), sys.path
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model("models:/seg-unet@champion")
assert "/code" in sys.modules["seg"].__file__ and "experiments" not in sys.modules

paths = sorted(folder.glob("image*.[jp][pn]g"))
images = [path.read_bytes() for path in paths]
def ours(name):
    with np.load(folder / f"{name}.npz") as arrays:
        return list(arrays.values())
def decode(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
def check(found, name="tuned"):
    masks = ours(name)
    assert [mask.shape for mask in masks] == list(zip(found.height, found.width)), found
    for png, mask in zip(found.mask_png, masks, strict=True):
        np.testing.assert_array_equal(decode(png), mask * np.uint8(255))
    assert found.area.tolist() == [mask.sum() for mask in masks]
    assert found.error.tolist() == [""] * len(masks)

check(model.predict({"image": images}))
check(model.predict([{"image": image} for image in images]))
check(model.predict(pd.DataFrame({"image": images})))
check(model.predict({"image": images}, params={"threshold": 0.9}), "high")
check(model.predict({"image": images}, params={"tta": "flips"}), "flips")
arrays = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
check(model.predict({"image": arrays}))
for form in ("rle", "polygon"):
    texts = model.predict({"image": images}, params={"output": form}).segmentation
    for text, mask in zip(texts, ours("tuned"), strict=True):
        segmentation = json.loads(text)
        if form == "polygon":
            segmentation = pycoco.merge(pycoco.frPyObjects(segmentation, *mask.shape))
        np.testing.assert_array_equal(pycoco.decode(segmentation), mask)
pngs = model.predict({"image": images}, params={"output": "probability"}).probability_png
for png, probability in zip(pngs, ours("tuned_probability"), strict=True):
    np.testing.assert_array_equal(decode(png), np.rint(probability * 65535))
unlike = model.predict({"image": images}).unlike.tolist()
assert unlike[0] == "" and unlike[1].startswith("width/height 4.50: training images have 0.80 to 1.60"), unlike

# The same folder through seg.load, and the Predictor within the loaded model.
import seg
fetched = mlflow.artifacts.download_artifacts("models:/seg-unet@champion", dst_path=str(folder / "fetched"))
for predictor in (seg.load(fetched), model.unwrap_python_model().predictor):
    assert predictor.threshold == 0.45
    for one, mask, probability in zip(
        predictor.predict_many(paths), ours("tuned"), ours("tuned_probability"), strict=True
    ):
        np.testing.assert_array_equal(one.mask, mask)
        np.testing.assert_array_equal(one.probability, probability)

# Over HTTP, without the HTTP: what `mlflow models serve` does with a request's body.
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations
def ask(request):
    answer = invocations(json.dumps(request), "application/json", model, model.metadata.get_input_schema())
    rows = json.loads(answer.response, parse_constant=lambda constant: 1 / 0)["predictions"]  # NaN is no JSON
    return pd.DataFrame(rows, dtype=object)
def check_answer(found, name="tuned"):
    check(found.assign(mask_png=[base64.b64decode(png) for png in found.mask_png]), name)
text = [base64.b64encode(image).decode() for image in images]
split = {"columns": ["image"], "data": [[image] for image in text]}
records = [{"image": image} for image in text]
urls = [f"data:image/png;base64,{image}" for image in text]
for request in (
    {"inputs": {"image": text}},
    {"inputs": {"image": urls}},
    {"inputs": text},
    {"instances": records},
    {"dataframe_split": split},
    {"dataframe_records": records},
):
    check_answer(ask(request))
check_answer(ask({"inputs": text, "params": {"threshold": 0.9}}), "high")
check_answer(ask({"inputs": text, "params": {"tta": "flips"}}), "flips")
found = ask({"inputs": [text[0], "no image", str(paths[0]), text[1][:80], text[1], text[2]]})
assert found.error.map(bool).tolist() == [False, True, True, True, False, False]
assert found.area.isna().tolist() == [False, True, True, True, False, False]
check_answer(found[found.error == ""])
for params, message in (
    ({"output": "box"}, "output must be one of mask, rle, polygon, probability, got 'box'"),
    ({"tta": "turns"}, "tta must be one of none, flips, square, got 'turns'"),
    ({"threshold": 2.0}, "threshold must lie between 0 and 1, got 2.0"),
    ({"threshold": "high"}, "threshold"),
):
    try:
        ask({"inputs": text, "params": params})
    except MlflowException as error:
        assert message in str(error) and error.get_http_status_code() == 400, error
    else:
        raise AssertionError(params)
print("equal")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, a model file (trained by nobody), and the masks that our own Predictor finds."""
    folder = tmp_path_factory.mktemp("model")
    random = np.random.default_rng(0)
    for name, height, width in (("image0.png", 50, 70), ("image1.png", 20, 90), ("image2.jpg", 33, 31)):
        cv2.imwrite(str(folder / name), random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=PROJECT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    client.create_experiment("registry", artifact_location=(tmp_path_factory.mktemp("artifacts")).as_uri())
    return uri


@pytest.fixture
def client(uri):
    return mlflow.MlflowClient(uri)


@pytest.fixture
def register(uri, client, tmp_path):
    """Registers a run's model; a new run unless one is given. The file's content plays no part here."""
    experiment = client.get_experiment_by_name("registry").experiment_id
    (tmp_path / "model.keras").write_bytes(b"weights")

    def register(name, dice, *, run_id=None, test_key="test", model_file=tmp_path / "model.keras", **changes):
        run_id = run_id or client.create_run(experiment).info.run_id
        values = {
            "scores": {"dice_own_size": dice, "dice": 0.7},
            "threshold": 0.45,
            "dataset_key": "dataset",
            "test_key": test_key,
            "example": b"image",
            "training_images": TRAINING_IMAGES,
        }
        return Registry(uri).register(run_id, model_file, name, **(values | changes))

    return register


def test_a_version_carries_its_scores(uri, register, client):
    assert Registry(uri).champion("first") is None
    model = register("first", 0.8)
    assert (model.version, model.uri, model.dice, model.test_key) == ("1", "models:/first/1", 0.8, "test")
    assert Registry(uri).champion("first") is None  # that is the gate's to decide
    tags = client.get_model_version("first", "1").tags
    assert tags == {
        "test_dice_own_size": "0.8",
        "test_dice": "0.7",
        "threshold": "0.45",
        "dataset_key": "dataset",
        "test_key": "test",
        "tta": "none",
        "largest_component": "no",
        "classes": "foreground",
        "run": model.run_id,
    }
    assert "models:/first@champion" in client.get_registered_model("first").description


def test_a_champion_of_other_classes_cannot_be_contended(uri, register):
    registry = Registry(uri)
    check_contender(registry, "classes", ("a", "b"))  # nobody is champion
    model = register("classes", 0.8, classes=("a", "b"), threshold=None)
    assert (model.classes, registry.tags(model)["threshold"]) == ("a,b", "none")
    registry.make_champion(model, None, ["1"])
    check_contender(registry, "classes", ("a", "b"))
    for others in (("foreground",), ("b", "a")):
        with pytest.raises(UserError, match="champion of classes finds a, b; use another model_name"):
            check_contender(registry, "classes", others)


def test_a_run_has_one_version(uri, register, client):
    first = register("once", 0.8)
    again = register("once", 0.8, run_id=first.run_id, test_key="other")
    assert again.version == "1"
    assert len(client.search_model_versions("name = 'once'")) == 1
    assert client.get_model_version("once", "1").tags["test_key"] == "other"
    assert len(client.get_run(first.run_id).outputs.model_outputs) == 1
    assert Registry(uri).of_run("once", first.run_id) == again
    assert Registry(uri).of_run("once", "another run") is None


def test_a_version_keeps_what_it_was_scored_with(uri, register):
    first = register("kept", 0.8, tta="flips")
    for changes, told in (
        ({"tta": "square"}, "tta must stay flips, with which version 1 of kept was registered .* got square"),
        ({"tta": "flips", "largest_component": "yes"}, "largest_component must stay no, .* use another model_name"),
        (
            {"tta": "flips", "threshold": 0.5},
            "threshold must stay 0.45, .* from this run, got 0.5; use another model_name",
        ),
    ):
        with pytest.raises(UserError, match=told):
            register("kept", 0.9, run_id=first.run_id, **changes)
    registry = Registry(uri)
    assert registry.of_run("kept", first.run_id).dice == 0.8
    assert registry.check_kept("kept", first.run_id, {"tta": "flips", "largest_component": "no"}) == first
    assert registry.check_kept("other", first.run_id, {"tta": "square"}) is None
    assert register("other", 0.9, run_id=first.run_id, tta="square").version == "1"


def test_the_newest_version(uri, register):
    for _ in range(11):  # by number, not by text
        register("many", 0.8)
    assert Registry(uri).newest("many").version == "11"
    with pytest.raises(UserError, match="model_name must have a version in the registry .* got 'nobody'"):
        Registry(uri).newest("nobody")


def test_the_champion_moves_and_remembers(uri, register):
    registry = Registry(uri)
    one, two = register("moving", 0.8), register("moving", 0.9)
    assert registry.past_champions("moving") == []
    registry.make_champion(one, None, ["1"])
    registry.make_champion(two, one, ["1", "2"])
    assert registry.champion("moving") == two
    assert registry.past_champions("moving") == ["1", "2"]


def test_a_champion_that_changed_meanwhile_is_not_replaced(uri, register):
    registry = Registry(uri)
    one, two, three = (register("raced", 0.8) for _ in range(3))
    with pytest.raises(UserError, match="it became version none meanwhile"):
        registry.make_champion(one, two, ["1"])
    registry.make_champion(one, None, ["1"])
    registry.make_champion(two, one, ["1", "2"])
    with pytest.raises(UserError, match="it became version 2 meanwhile; run promote again"):
        registry.make_champion(three, one, ["1", "3"])
    assert registry.champion("raced") == two


def test_notes_and_descriptions_fit_into_the_database(uri, register, client):
    model = register("noted", 0.8)
    Registry(uri).note(model, {"promotion": "x" * 9000})
    Registry(uri).describe(model, "y" * 9000)
    version = client.get_model_version("noted", "1")
    assert len(version.tags["promotion"]) == len(version.description) == 5000


def test_versions_aliases_and_the_example(uri, register, client):
    register("browsed", 0.6)
    register("browsed", 0.5)
    client.set_registered_model_alias("browsed", "champion", "1")
    client.set_registered_model_alias("browsed", "challenger", "2")
    registry = Registry(uri)
    assert registry.versions("browsed") == ["2", "1"]
    assert registry.aliases("browsed") == {"champion": "1", "challenger": "2"}
    assert registry.example(registry.find("models:/browsed/2")) == b"image"
    assert (registry.versions("nobody"), registry.aliases("nobody")) == ([], {})


def test_a_foreign_version_has_no_example(uri, client, tmp_path):
    client.create_registered_model("foreign-example")
    client.create_model_version("foreign-example", source=tmp_path.as_uri())
    registry = Registry(uri)
    assert registry.example(registry.find("models:/foreign-example/1")) is None


def test_download_brings_file_and_settings(uri, register, tmp_path):
    registered = register("fetched", 0.8)
    folder = Registry(uri).download(registered, tmp_path / "fetched")
    assert (folder / "model.keras").read_bytes() == b"weights"
    settings = json.loads((folder / "settings.json").read_text())
    known = {"threshold": 0.45, "tta": "none", "exif": "ignore", "training_images": TRAINING_IMAGES.to_json()}
    known |= {"largest_component": "no", "classes": ["foreground"]}
    assert settings == known


def test_the_model_describes_itself(register, client, tmp_path):
    registered = register("described", 0.8)
    fetched = Path(
        mlflow.artifacts.download_artifacts(
            client.get_model_version_download_uri("described", registered.version), dst_path=str(tmp_path)
        )
    )
    files = {str(path.relative_to(fetched)) for path in (fetched / "code").rglob("*.py")}
    assert files == {f"code/{path}" for path in _CODE}
    requirements = (fetched / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in requirements] == REQUIREMENTS
    model = mlflow.models.Model.load(str(fetched))
    assert [(spec.name, spec.type.name) for spec in model.signature.inputs] == [("image", "binary")]
    assert [(param.name, param.dtype.name, param.default) for param in model.signature.params] == [
        ("threshold", "double", 0.45),
        ("tta", "string", "none"),
        ("largest_component", "string", "no"),
        ("output", "string", "mask"),
    ]
    columns = "mask_png segmentation probability_png height width area confidence unlike error"
    assert model.signature.outputs.input_names() == columns.split()
    assert model.model_uuid == model.model_id
    assert not list(fetched.rglob("*.pkl"))


def test_the_code_that_travels_is_all_that_it_imports():
    needed: set[str] = set()
    waiting = ["experiments/registry/pyfunc_model.py", "seg/__init__.py"]
    while waiting:
        for name in imported(PROJECT / waiting.pop()):
            module = name.replace(".", "/")
            found = {path for path in (f"{module}.py", f"{module}/__init__.py") if (PROJECT / path).is_file()}
            waiting += found - needed
            needed |= found
    packages = {f"{Path(path).parent}/__init__.py" for path in needed}
    assert set(_CODE) == needed | packages


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "it's", "50%"])
def test_names_that_mlflow_cannot_use(register, name):
    with pytest.raises(UserError, match="model_name must be without"):
        check_name(name)
    with pytest.raises(UserError, match="model_name must be without"):
        register(name, 0.8)


def test_other_errors_of_the_store_are_not_hidden(uri, register, monkeypatch):
    registry = Registry(uri)

    def fail(*args, **kwargs):
        raise mlflow.exceptions.MlflowException("database is locked")

    monkeypatch.setattr(registry._client, "get_model_version_by_alias", fail)
    with pytest.raises(mlflow.exceptions.MlflowException, match="database is locked"):
        registry.champion("first")
    monkeypatch.setattr(mlflow.MlflowClient, "create_registered_model", fail)
    with pytest.raises(mlflow.exceptions.MlflowException, match="database is locked"):
        register("locked", 0.8)


def test_registering_imports_no_tensorflow(uri, client, folder):
    run_id = client.create_run(client.get_experiment_by_name("registry").experiment_id).info.run_id
    code = f"""
import sys
from pathlib import Path
from experiments.registry.registry import Registry
from seg.data.appearance import Appearance
known = Appearance.from_json({TRAINING_IMAGES.to_json()!r})
Registry({uri!r}).register({run_id!r}, Path({str(folder / "model.keras")!r}), "light", scores={{"dice_own_size": 0.8}},
    threshold=0.45, dataset_key="dataset", test_key="test", example=Path({str(folder / "image0.png")!r}).read_bytes(),
    training_images=known)
assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_stranger_loads_the_champion_and_gets_our_masks(uri, register, folder, tmp_path, monkeypatch):
    model = register("seg-unet", 0.8, model_file=folder / "model.keras", example=(folder / "image0.png").read_bytes())
    Registry(uri).make_champion(model, None, ["1"])
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, uri, str(folder), json.dumps(REQUIREMENTS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"
