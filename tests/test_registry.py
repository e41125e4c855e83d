import json
import subprocess
import sys
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pytest

from experiments.registry import Registry, check_name
from seg.errors import UserError

PROJECT = Path(__file__).parent.parent

BUILD = """
import sys, keras, numpy as np
from pathlib import Path
from seg.inference import Predictor
folder = Path(sys.argv[1])
keras.utils.set_random_seed(0)
convolution = keras.layers.Conv2D(1, 5, padding="same")
layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 64, offset=-2), convolution]
keras.Sequential(layers).save(folder / "model.keras")
predictor = Predictor.load(folder / "model.keras")
for path in sorted(folder.glob("image*")):
    np.save(folder / f"{path.stem}.npy", predictor.predict(path.read_bytes(), 0.45).mask)
    np.save(folder / f"{path.stem}_high.npy", predictor.predict(path.read_bytes(), 0.9).mask)
"""

# What a stranger's process does, somewhere else, without this project.
LOAD = """
import base64, json, sys, cv2, mlflow, numpy as np, pandas as pd
from pathlib import Path
uri, folder = sys.argv[1], Path(sys.argv[2])
assert not any((Path(entry) / "experiments").exists() for entry in sys.path), sys.path
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model("models:/seg-unet@champion")
assert "/code" in sys.modules["seg"].__file__ and "experiments" not in sys.modules

paths = sorted(folder.glob("image*.[jp][pn]g"))
images = [path.read_bytes() for path in paths]
def unpack(found):
    masks = [cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) for png in found.mask_png]
    assert [mask.shape for mask in masks] == list(zip(found.height, found.width))
    return masks
def check(masks, ending, white):
    for path, mask in zip(paths, masks, strict=True):
        np.testing.assert_array_equal(mask, np.load(folder / f"{path.stem}{ending}.npy") * np.uint8(white))

check(unpack(model.predict({"image": images})), "", 255)
check(unpack(model.predict([{"image": image} for image in images])), "", 255)
check(unpack(model.predict({"image": images}, params={"threshold": 0.9})), "_high", 255)
arrays = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
check(unpack(model.predict({"image": arrays})), "", 255)
inner = model.unwrap_python_model()
check(inner.masks(images), "", 1)
check(inner.masks(arrays, 0.9), "_high", 1)
for same in (arrays[0], np.stack([arrays[0]])):
    np.testing.assert_array_equal(inner.masks(same)[0], np.load(folder / f"{paths[0].stem}.npy"))
stacked = unpack(model.predict({"image": np.stack([arrays[0]] * 2)}))
np.testing.assert_array_equal(stacked[1], np.load(folder / f"{paths[0].stem}.npy") * np.uint8(255))

# Over HTTP, without the HTTP: what `mlflow models serve` does with a request's body.
from mlflow.pyfunc.scoring_server import invocations
text = [base64.b64encode(image).decode() for image in images]
split = {"columns": ["image"], "data": [[image] for image in text]}
records = [{"image": image} for image in text]
for request in ({"inputs": {"image": text}}, {"dataframe_split": split}, {"dataframe_records": records}):
    answer = invocations(json.dumps(request), "application/json", model, model.metadata.get_input_schema())
    rows = json.loads(answer.response)["predictions"]
    found = pd.DataFrame({name: [row[name] for row in rows] for name in ("height", "width")})
    check(unpack(found.assign(mask_png=[base64.b64decode(row["mask_png"]) for row in rows])), "", 255)
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
        "run": model.run_id,
    }
    assert "models:/first@champion" in client.get_registered_model("first").description


def test_a_run_has_one_version(uri, register, client):
    first = register("once", 0.8)
    again = register("once", 0.8, run_id=first.run_id, test_key="other")
    assert again.version == "1"
    assert len(client.search_model_versions("name = 'once'")) == 1
    assert client.get_model_version("once", "1").tags["test_key"] == "other"
    assert len(client.get_run(first.run_id).outputs.model_outputs) == 1
    assert Registry(uri).of_run("once", first.run_id) == again
    assert Registry(uri).of_run("once", "another run") is None


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


def test_download_brings_file_and_settings(uri, register, tmp_path):
    registered = register("fetched", 0.8)
    folder = Registry(uri).download(registered, tmp_path / "fetched")
    assert (folder / "model.keras").read_bytes() == b"weights"
    assert json.loads((folder / "settings.json").read_text()) == {"threshold": 0.45}


def test_the_model_describes_itself(register, client, tmp_path):
    registered = register("described", 0.8)
    fetched = Path(
        mlflow.artifacts.download_artifacts(
            client.get_model_version_download_uri("described", registered.version), dst_path=str(tmp_path)
        )
    )
    files = {str(path.relative_to(fetched)) for path in (fetched / "code").rglob("*.py")}
    assert files == {
        f"code/seg/{name}.py" for name in ("__init__", "errors", "inference", "data/__init__", "data/images")
    }
    requirements = (fetched / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in requirements] == [
        "mlflow",
        "tensorflow",
        "keras",
        "numpy",
        "opencv-python-headless",
    ]
    model = mlflow.models.Model.load(str(fetched))
    assert model.signature.inputs.input_names() == ["image"]
    assert model.signature.params.params[0].default == 0.45
    assert model.model_uuid == model.model_id
    assert not list(fetched.rglob("*.pkl"))


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
from experiments.registry import Registry
Registry({uri!r}).register({run_id!r}, Path({str(folder / "model.keras")!r}), "light", scores={{"dice_own_size": 0.8}},
    threshold=0.45, dataset_key="dataset", test_key="test", example=Path({str(folder / "image0.png")!r}).read_bytes())
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
        [sys.executable, "-I", "-c", LOAD, uri, str(folder)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"
