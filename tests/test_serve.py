"""A real server process on a small registered model, asked as strangers ask: well, badly, and all at once.

One file, though long: its tests share a server, which takes ten seconds to start.
"""

import base64
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pytest
import requests

from experiments import serve
from experiments.registry.registry import Registry
from seg.data.appearance import Appearance
from seg.errors import UserError

ROOT = Path(__file__).parent.parent
MIB = 2**20
KNOWN = Appearance(height=(10, 90), width=(10, 90), aspect=(0.2, 5), brightness=(0, 255), contrast=(0, 255), colour=0.5)


def block(height: int, width: int, left: int, form: str = ".png") -> bytes:
    """An encoded dark image, bright to the right of `left`."""
    image = np.full((height, width, 3), 20, np.uint8)
    image[:, left:] = 240
    return bytes(cv2.imencode(form, image)[1])


def huge(height: int, width: int) -> bytes:
    """A PNG's header, and nothing behind it."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(9)


JPEG, PNG = block(40, 60, 25, ".jpg"), block(30, 20, 8)
HUGE = huge(8192, 8192)  # as large as one image may be


def decode(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


@dataclass(frozen=True)
class Served:
    """A server, and its model on disk."""

    url: str
    port: int
    process: "subprocess.Popen[str]"
    model: Path


def start(uri: str, *options: str, folder: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.serve", "--port=0", *options]
    with (folder / "stderr").open("w") as errors:
        return subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A registry with one model: bright red is foreground. Its own copy of `seg` differs in one word from ours."""
    import keras

    folder = tmp_path_factory.mktemp("store")
    layer = keras.layers.Conv2D(1, 1)
    network = keras.Sequential([keras.Input((16, 16, 3)), layer])
    layer.set_weights([np.reshape([1 / 8, 0, 0], (1, 1, 3, 1)), np.array([-127.5 / 8])])
    network.save(folder / "model.keras")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("serve", artifact_location=(folder / "artifacts").as_uri())
    registry = Registry(uri)
    model = registry.register(
        client.create_run(experiment).info.run_id,
        folder / "model.keras",
        "seg-unet",
        scores={"dice_own_size": 0.5},
        threshold=0.5,
        dataset_key="data",
        test_key="test",
        example=PNG,
        training_images=KNOWN,
    )
    registry.make_champion(model, None, [model.version])
    (code,) = folder.glob("artifacts/**/code/seg/data/any_image.py")
    text = code.read_text(encoding="utf-8")
    assert "the image file is empty" in (text + code.with_name("images.py").read_text(encoding="utf-8"))
    for path in (code, code.with_name("images.py")):
        path.write_text(path.read_text(encoding="utf-8").replace("image file is empty", "image file is EMPTY"))
    return uri, folder


@pytest.fixture(scope="module")
def served(store: tuple[str, Path]) -> Iterator[Served]:
    uri, folder = store
    process = start(uri, "--max_upload=1", folder=folder)
    assert process.stdout is not None
    line = process.stdout.readline()
    errors = (folder / "stderr").read_text()
    assert line.startswith("serving models:/seg-unet/1 on http://127.0.0.1:"), errors
    assert errors == ""  # nothing of TensorFlow, MLflow or uvicorn
    url = line.split()[3]
    try:
        yield Served(url=url, port=int(url.rpartition(":")[2]), process=process, model=folder)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def alive(served: Served) -> Iterator[Served]:
    """The server, which must answer as before when the test is over."""
    yield served
    assert served.process.poll() is None
    assert requests.post(f"{served.url}/mask", data=PNG, timeout=20).ok


def in_process(served: Served, image: bytes, threshold: float | None = None) -> np.ndarray:
    import seg

    return seg.load(served.model / "model.keras").predict(image, threshold).mask * 255


def invoke(served: Served, body: Any, content_type: str = "application/json") -> requests.Response:
    data = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return requests.post(f"{served.url}/invocations", data, headers={"Content-Type": content_type}, timeout=20)


def error_of(answer: requests.Response) -> str:
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error_code", "message"}
    assert "\n" not in body["message"]
    assert len(body["message"]) <= 500
    assert str(ROOT) not in answer.text
    assert "site-packages" not in answer.text
    return str(body["message"])


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


def test_it_says_that_it_is_there(served: Served) -> None:
    for path in ("ping", "health"):
        assert requests.get(f"{served.url}/{path}", timeout=10).status_code == 200
    assert requests.get(f"{served.url}/version", timeout=10).text == mlflow.__version__
    assert error_of(requests.get(f"{served.url}/etc/passwd", timeout=10)) == "Not Found"


def test_no_answer_waits_for_an_acknowledgement(served: Served) -> None:
    """Without TCP_NODELAY, each of a connection's later answers takes 40 ms."""
    with requests.Session() as session:
        seconds = [session.get(f"{served.url}/ping", timeout=10).elapsed.total_seconds() for _ in range(20)]
    assert min(seconds[1:]) < 0.03


@pytest.mark.parametrize("image", [JPEG, PNG], ids=["jpeg", "png"])
def test_a_mask_is_the_one_of_this_process_pixel_for_pixel(served: Served, image: bytes) -> None:
    expected = in_process(served, image)
    assert 0 < expected.mean() < 255
    answer = requests.post(f"{served.url}/mask", image, timeout=20)
    assert answer.headers["content-type"] == "image/png"
    assert 0.9 < float(answer.headers["x-confidence"]) <= 1
    assert answer.headers["x-unlike"] == ""
    np.testing.assert_array_equal(decode(answer.content), expected)

    rows = invoke(served, {"inputs": {"image": [text(image), text(PNG)]}}).json()["predictions"]
    assert [row["error"] for row in rows] == ["", ""]
    np.testing.assert_array_equal(decode(base64.b64decode(rows[0]["mask_png"])), expected)
    np.testing.assert_array_equal(decode(base64.b64decode(rows[1]["mask_png"])), in_process(served, PNG))


def test_threshold_and_tta(served: Served) -> None:
    grey = bytes(cv2.imencode(".png", np.full((20, 30, 3), 136, np.uint8))[1])  # probability 0.743
    for query, value in (("", 255), ("?threshold=0.7&tta=flips", 255), ("?threshold=0.8", 0)):
        answer = requests.post(f"{served.url}/mask{query}", grey, timeout=20)
        assert decode(answer.content).tolist() == np.full((20, 30), value).tolist()


def test_an_image_unlike_the_training_images(served: Served) -> None:
    answer = requests.post(f"{served.url}/mask", block(900, 900, 20), timeout=20)
    assert answer.headers["x-unlike"] == (
        "height 900 pixels: training images have 10 to 90; width 900 pixels: training images have 10 to 90"
    )


def test_curl_as_documented(served: Served, tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(JPEG)
    guide = (ROOT / "docs" / "how-to" / "serve.md").read_text(encoding="utf-8")
    lines = [line for line in guide.splitlines() if "curl --fail" in line]
    assert len(lines) == 2
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in lines:
        command = line.replace("http://127.0.0.1:5001", served.url)
        subprocess.run(command, shell=True, cwd=tmp_path, env=environment, check=True, capture_output=True)
        mask = tmp_path / "mask.png"
        np.testing.assert_array_equal(decode(mask.read_bytes()), in_process(served, JPEG))
        mask.unlink()


def test_answers_belong_to_their_own_images(served: Served) -> None:
    images = [block(20 + 3 * number, 50 - number, 5 + 2 * number) for number in range(16)]
    expected = [in_process(served, image) for image in images]
    order = [number % 16 for number in range(64)]

    def ask(number: int) -> np.ndarray:
        if number % 2:
            return decode(requests.post(f"{served.url}/mask", images[number], timeout=60).content)
        rows = invoke(served, {"inputs": [text(images[number])]}).json()["predictions"]
        return decode(base64.b64decode(rows[0]["mask_png"]))

    with ThreadPoolExecutor(8) as clients:
        for number, mask in zip(order, clients.map(ask, order), strict=True):
            np.testing.assert_array_equal(mask, expected[number])


def test_a_declared_body_that_is_too_long(alive: Served) -> None:
    """Refused by its header: not one byte of it is sent."""
    connection = http.client.HTTPConnection("127.0.0.1", alive.port, timeout=10)
    connection.putrequest("POST", "/mask")
    connection.putheader("Content-Length", str(MIB + 1))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    message = json.loads(answer.read())["message"]
    assert message == "a body must have at most 1048576 bytes; send fewer or smaller images."
    connection.close()


def test_an_undeclared_body_that_is_too_long(alive: Served) -> None:
    """Refused by what arrived: it has no end."""
    connection = http.client.HTTPConnection("127.0.0.1", alive.port, timeout=10)
    connection.putrequest("POST", "/invocations")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for _ in range(16):
        connection.send(b"10000\r\n" + bytes(0x10000) + b"\r\n")
    connection.send(b"1\r\nx\r\n")
    answer = connection.getresponse()
    assert answer.status == 413
    assert "at most 1048576 bytes" in json.loads(answer.read())["message"]
    connection.close()


def test_a_body_of_just_the_limit_is_read(alive: Served) -> None:
    answer = requests.post(f"{alive.url}/mask", JPEG + bytes(MIB - len(JPEG)), timeout=20)
    assert answer.status_code == 200


def test_a_client_that_leaves_midway(alive: Served) -> None:
    with socket.create_connection(("127.0.0.1", alive.port)) as connection:
        connection.sendall(b"POST /mask HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (b"no JSON", "application/json", 400, "valid JSON"),
        (b"\xff\xfe", "application/json", 400, "valid JSON"),
        (b"[" * 100_000, "application/json", 400, "nested"),
        (b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}", "application/json", 400, "nested"),
        ({"inputs": [text(PNG)], "params": {"tta": "turns"}}, "application/json", 400, "tta must be one of none"),
        ({"inputs": [text(PNG)], "params": {"threshold": 2.0}}, "application/json", 400, "threshold must lie between"),
        ({"inputs": [text(PNG)], "params": 5}, "application/json", 400, "Parameters must be a dictionary"),
        ({"inputs": [""] * 65}, "application/json", 413, "at most 64 images, got 65"),
        (
            {"inputs": [text(HUGE), text(PNG)]},
            "application/json",
            413,
            "at most 67108864 pixels together, got 67109464",
        ),
        (b"image\naa\n", "text/csv", 415, "must be application/json"),
        (b"no parquet", "application/vnd.apache.parquet", 415, "must be application/json"),
        (PNG, "image/png", 415, "must be application/json"),
    ],
    ids=["text", "bytes", "deep", "deeper", "tta", "threshold", "params", "many", "pixels", "csv", "parquet", "type"],
)
def test_a_broken_request(alive: Served, body: Any, content_type: str, status: int, message: str) -> None:
    answer = invoke(alive, body, content_type)
    assert (answer.status_code, message in error_of(answer)) == (status, True), answer.text


def test_a_request_without_a_content_type(alive: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", alive.port, timeout=10)
    connection.request("POST", "/invocations", b"{}")
    assert connection.getresponse().status == 415
    connection.close()


@pytest.mark.parametrize(
    ("body", "query", "status", "message"),
    [
        # The word comes from the code that was registered with the model.
        (b"", "", 400, "the image file is EMPTY"),
        (JPEG[:200], "", 400, "the JPEG is cut off"),
        (b"GIF89a", "", 400, "GIF89a"),
        (PNG, "?threshold=2", 400, "threshold must lie between 0 and 1, got 2.0"),
        (PNG, "?tta=turns", 400, "tta must be one of none, flips, square, got 'turns'"),
        (PNG, "?threshold=high", 422, "threshold: "),
    ],
    ids=["empty", "truncated", "gif", "threshold", "tta", "text"],
)
def test_a_mask_of_a_broken_image(alive: Served, body: bytes, query: str, status: int, message: str) -> None:
    answer = requests.post(f"{alive.url}/mask{query}", body, timeout=20)
    assert (answer.status_code, message in error_of(answer)) == (status, True), answer.text


def test_a_broken_image_costs_no_other(alive: Served) -> None:
    cells = [text(PNG), "no base64!", text(JPEG[:200]), text(PNG)]
    rows = invoke(alive, {"inputs": cells}).json()["predictions"]
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert rows[0] == rows[3]


def test_a_value_that_is_missing(alive: Served) -> None:
    rows = invoke(alive, {"inputs": {"image": [None, text(PNG)]}}).json()["predictions"]
    assert rows[0]["error"] == "the image's value is missing; send the bytes of a file."
    assert rows[1]["error"] == ""


def test_stalled_clients_keep_nobody_waiting(alive: Served) -> None:
    """300 of them have sent a header and no body; another 100 nothing at all."""
    stalled = [socket.create_connection(("127.0.0.1", alive.port)) for _ in range(400)]
    for connection in stalled[:300]:
        connection.sendall(b"POST /mask HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc")
    assert requests.get(f"{alive.url}/ping", timeout=10).status_code == 200
    assert requests.post(f"{alive.url}/mask", PNG, timeout=20).status_code == 200
    for connection in stalled:
        connection.close()


def test_large_images_take_turns(alive: Served) -> None:
    """Four at once need no more memory than one: each alone needs about 0.4 GB."""
    png = bytes(cv2.imencode(".png", np.zeros((6000, 6000), np.uint8))[1])

    def ask(_: int) -> tuple[int, int]:
        answer = requests.post(f"{alive.url}/mask", png, timeout=120)
        return answer.status_code, len(answer.content)

    assert ask(0)[0] == 200
    before = peak(alive)
    with ThreadPoolExecutor(4) as clients:
        assert len(set(clients.map(ask, range(4)))) == 1
    assert peak(alive) - before < 250


def peak(served: Served) -> float:
    """The most memory that the server ever had, in MB."""
    status = Path(f"/proc/{served.process.pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def test_no_file_can_be_read(alive: Served) -> None:
    (alive.model / "secret.png").write_bytes(PNG)
    path = str(alive.model / "secret.png")
    errors = []
    for name in (path, f"file://{path}", "secret.png"):
        (row,) = invoke(alive, {"inputs": [name]}).json()["predictions"]
        assert row["mask_png"] is None
        errors.append(row["error"])
        assert requests.post(f"{alive.url}/mask", name.encode(), timeout=20).status_code == 400
    (alive.model / "secret.png").unlink()
    (row,) = invoke(alive, {"inputs": [path]}).json()["predictions"]
    assert row["error"] == errors[0]  # nor learn whether it is there


def test_a_port_that_is_taken_and_a_model_that_is_missing(
    served: Served, store: tuple[str, Path], tmp_path: Path
) -> None:
    for options, message in (
        ((f"--port={served.port}",), f"got 127.0.0.1 and {served.port} (Address already in use); give another --port."),
        (("--model=models:/seg-unet@nobody",), "got 'models:/seg-unet@nobody'; register one"),
    ):
        process = start(store[0], *options, folder=tmp_path)
        assert process.communicate(timeout=60) == ("", None)
        (line,) = (tmp_path / "stderr").read_text().splitlines()
        assert process.returncode == 2
        assert line.startswith("error: ")
        assert message in line


def test_an_address_that_is_not_here() -> None:
    with pytest.raises(UserError, match="host and port must be a free address of this machine, got 192.0.2.1 and 0"):
        serve.listen("192.0.2.1", 0)
    with pytest.raises(UserError, match="host and port must be a free address"):
        serve.listen("nowhere.invalid", 0)


def test_no_room_for_a_body() -> None:
    with pytest.raises(UserError, match="max_upload must be above 0, got 0; use 32"):
        serve.main(["--max_upload=0"])


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_is_none(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serve.main([f"--port={port}"])
    assert "port" in capsys.readouterr().err


def test_open_to_others_is_said(
    monkeypatch: pytest.MonkeyPatch, store: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store[0])
    monkeypatch.setattr(serve, "serve", lambda *_: None)
    assert serve.main(["--port=0"]) == 0
    assert capsys.readouterr().err == ""
    assert serve.main(["--port=0", "--host=0.0.0.0"]) == 0
    assert "warning: 0.0.0.0 can be reached from other machines, and there is no auth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "closed"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_who_can_reach_an_address(host: str, closed: bool) -> None:
    assert serve.is_loopback(host) == closed


def test_it_ends_in_order(served: Served) -> None:
    """The last test: with clients still connected, SIGTERM ends the server at once and with exit code 0. The second one
    comes while the server stands still, so that it finds a connection and its end at the same moment."""
    logged = (served.model / "stderr").read_text()
    with socket.create_connection(("127.0.0.1", served.port)):
        served.process.send_signal(signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", served.port)):
            served.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)  # uvicorn looks ten times a second whether to end
            served.process.send_signal(signal.SIGCONT)
            assert served.process.wait(timeout=60) == 0
    assert served.process.stdout is not None
    assert served.process.stdout.read() == ""
    assert (served.model / "stderr").read_text() == logged
