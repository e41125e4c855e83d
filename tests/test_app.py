"""The page in a real Chromium, with two versions of a model that nobody trained.

One file, though long: its tests share a server and a browser, which take ten seconds to start.
"""

import base64
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import mlflow
import numpy as np
import psutil
import pytest

from experiments import app
from experiments.registry.registry import Registry
from experiments.web_page.models import Models
from seg.data.appearance import Appearance
from seg.data.convert import convert
from seg.data.masks import region
from seg.errors import UserError
from tests.small_export import write_export

PROJECT = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIDE = 48

# Probability of foreground: sigmoid((grey - middle) / 32).
BUILD = f"""
import sys, keras, numpy as np
for name, middle in (("one", 128), ("two", 250)):
    inputs = keras.Input(({SIDE}, {SIDE}, 3))
    outputs = keras.layers.Conv2D(1, 1)(keras.layers.Rescaling(1 / 32)(inputs))
    model = keras.Model(inputs, outputs)
    model.layers[-1].set_weights([np.full((1, 1, 3, 1), 1 / 3), np.array([-middle / 32])])
    model.save(f"{{sys.argv[1]}}/{{name}}.keras")
"""


def three_columns(width: int = SIDE, height: int = SIDE) -> bytes:
    """A third each of black, of grey 140 (version 1: sigmoid(12 / 32) = 0.59) and of white (0.98)."""
    image = np.zeros((height, width), np.uint8)
    image[:, width // 3 : 2 * width // 3] = 140
    image[:, 2 * width // 3 :] = 255
    return cv2.imencode(".png", image)[1].tobytes()


def like_training() -> Appearance:
    return Appearance(
        height=(SIDE, SIDE), width=(SIDE, SIDE), aspect=(1, 1), brightness=(0, 255), contrast=(0, 200), colour=0.0
    )


@dataclass(frozen=True, kw_only=True)
class Store:
    folder: Path
    uri: str


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A registry with versions 1, the champion, and 2."""
    folder = tmp_path_factory.mktemp("app")
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=PROJECT, check=True, capture_output=True)
    uri = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(uri, uri)
    experiment = client.create_experiment("app", artifact_location=(folder / "artifacts").as_uri())
    for name, dice in (("one", 0.75), ("two", 0.5)):
        Registry(uri).register(
            client.create_run(experiment).info.run_id,
            folder / f"{name}.keras",
            "columns",
            scores={"dice_own_size": dice},
            threshold=0.5,
            dataset_key="dataset",
            test_key="test",
            example=three_columns(),
            training_images=like_training(),
        )
    client.set_registered_model_alias("columns", "champion", "1")
    return Store(folder=folder, uri=uri)


@dataclass(frozen=True, kw_only=True)
class Server:
    process: subprocess.Popen[bytes]
    address: str
    corrections: Path
    temporary: Path

    def get(self, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of an answer."""
        request = urllib.request.Request(self.address + path, data=data, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


def hear_interrupts() -> None:
    """What a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def server(store: Store) -> Iterator[Server]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    temporary, corrections = store.folder / "tmp", store.folder / "corrections"
    temporary.mkdir()
    command = [sys.executable, "-m", "experiments.app", "--model_name=columns", f"--port={port}", "--max_upload=1"]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": store.uri,
        "TMPDIR": str(temporary),
        "GRADIO_SHARE": "True",  # the options decide
        "GRADIO_ALLOWED_PATHS": "/",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    log = (store.folder / "log.txt").open("wb")
    with (
        log,
        subprocess.Popen(
            [*command, f"--corrections={corrections}"],
            cwd=PROJECT,
            env=environment,
            stderr=log,
            preexec_fn=hear_interrupts,
        ) as process,
    ):
        found = Server(
            process=process, address=f"http://127.0.0.1:{port}", corrections=corrections, temporary=temporary
        )
        try:
            deadline = time.monotonic() + 90
            while True:
                try:
                    found.get("/")
                    break
                except urllib.error.URLError:
                    assert process.poll() is None, (store.folder / "log.txt").read_text()
                    assert time.monotonic() < deadline, (store.folder / "log.txt").read_text()
                    time.sleep(0.2)
            yield found
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        assert not os.environ.get("REQUIRE_BROWSER"), (
            f"REQUIRE_BROWSER is set, and none of {', '.join(BROWSERS)} is here"
        )
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra dev")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox does not start as root, as in a container.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, server: Server) -> Iterator[Any]:
    """The page of one person: another person has another one."""
    context = chromium.new_context()
    with context.new_page() as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        opened(page, server)
        yield page
        outside = [
            url for url in asked if urlsplit(url).hostname != "127.0.0.1" and not url.startswith(("data:", "blob:"))
        ]
        assert not outside
    context.close()


def opened(page: Any, server: Server) -> None:
    page.set_default_timeout(20_000)
    page.goto(server.address)
    page.get_by_text("version 1 · champion").first.wait_for()


def drop(page: Any, content: bytes, name: str = "scan.png", into: str = "image") -> None:
    page.locator(f"#{into} input[type=file]").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def facts(page: Any, text: str, row: int = 0) -> None:
    page.locator(".seg-facts").nth(row).filter(has_text=text).wait_for()


def slide(page: Any, which: str, value: str) -> None:
    page.wait_for_timeout(300)  # what came with the last answer is on the page, and its own value in the slider
    page.locator(f"#{which} input[type=range]").fill(value)


def downloaded(page: Any, text: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.get_by_text(text, exact=True).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


@pytest.mark.slow
class TestPage:
    def test_upload_slider_download(self, page: Any) -> None:
        assert "0.750" in page.locator(".seg-card").inner_text()  # its test Dice
        drop(page, three_columns())
        facts(page, "threshold 0.50 · area 1,536 px (66.7%)")
        slide(page, "threshold", "0.8")
        facts(page, "threshold 0.80 · area 768 px (33.3%)")
        name, content = downloaded(page, "Download mask")
        expected = np.zeros((SIDE, SIDE), np.uint8)
        expected[:, 32:] = 255
        assert name == "scan_mask.png"
        mask = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(np.asarray(mask), expected)
        name, content = downloaded(page, "Download COCO JSON")
        assert name == "scan_coco.json"
        assert json.loads(content)["annotations"][0]["bbox"] == [32, 0, 16, 48]
        slide(page, "threshold", "0.5")
        facts(page, "threshold 0.50 · area 1,536 px")
        assert json.loads(downloaded(page, "Download COCO JSON")[1])["annotations"][0]["bbox"] == [16, 0, 32, 48]

    def test_example_and_versions_and_truth(self, page: Any) -> None:
        page.locator("#examples button").first.click()
        facts(page, "area 1,536 px")
        page.locator("#other input").click()
        page.get_by_role("option", name="version 2").click()
        # Version 2 finds only white: sigmoid(5 / 32) = 0.54. 2 · 768 / (1536 + 768)
        facts(page, "threshold 0.50 · area 768 px (33.3%) · confidence 0.54 · Dice 0.667 against version 1", 1)
        slide(page, "second", "0.6")
        facts(page, "area 0 px", 1)
        facts(page, "area 1,536 px", 0)
        page.get_by_text("Compare with a true mask").click()
        truth = np.zeros((SIDE, SIDE), np.uint8)
        truth[:, 32:] = 255
        drop(page, cv2.imencode(".png", truth)[1].tobytes(), "truth.png", "truth")
        facts(page, "Dice 0.667 against the truth", 0)
        facts(page, "Dice 0.000 against the truth", 1)
        assert page.locator(".seg-tiles").nth(1).locator("img").count() == 4

    def test_redraw_to_a_training_record(self, page: Any, server: Server, tmp_path: Path) -> None:
        content = three_columns()
        drop(page, content, "redrawn.png")
        facts(page, "area 1,536 px")
        page.get_by_role("button", name="Redraw the mask").click()
        page.locator(".seg-editor[data-ready]").wait_for()
        canvas = page.locator(".seg-editor canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        scale = box["width"] / SIDE

        def stroke(start: tuple[float, float], end: tuple[float, float]) -> None:
            page.mouse.move(box["x"] + start[0] * scale, box["y"] + start[1] * scale)
            page.mouse.down()
            page.mouse.move(box["x"] + end[0] * scale, box["y"] + end[1] * scale, steps=4)
            page.mouse.up()

        before = drawn(page)
        assert (before == 1).sum() == 1536  # what was predicted, pixel for pixel
        stroke((6, 10), (6, 30))
        painted = drawn(page)
        assert painted[20, 6] == 1
        assert before[20, 6] == 0
        page.get_by_text("Eraser", exact=True).click()
        stroke((40, 10), (40, 30))
        erased = drawn(page)
        assert erased[20, 40] == 0
        assert erased[20, 6] == 1
        page.get_by_text("Undo", exact=True).click()
        np.testing.assert_array_equal(drawn(page), painted)
        stroke((40, 10), (40, 30))
        final = drawn(page)
        page.get_by_role("button", name="Save correction").click()
        page.locator("#note").filter(has_text="Saved:").wait_for()
        data = write_export(tmp_path / "data")
        options: dict[str, Any] = {"image_size": SIDE, "jobs": 1, "progress": False}
        manifest = convert(data, tmp_path / "workspace", additional=server.corrections, **options)
        example = list(manifest.examples("train"))[-1]
        assert example.file_name.startswith("additional/train/redrawn-")
        assert (server.corrections / "train" / Path(example.file_name).name).read_bytes() == content
        np.testing.assert_array_equal(region(example.mask, SIDE, SIDE), final)
        np.testing.assert_array_equal(manifest.records("train")[-1][..., 3], final)

    def test_mark_as_wrong(self, page: Any, server: Server) -> None:
        drop(page, three_columns(60, 30), "doubtful.png")
        facts(page, "Unlike the training images")
        page.get_by_role("button", name="Mark as wrong").click()
        page.locator("#note").filter(has_text="Noted as wrong").wait_for()
        found = json.loads((server.corrections / "wrong" / "_annotations.coco.json").read_text())
        assert [image["file_name"][:9] for image in found["images"]] == ["doubtful-"]

    def test_mistakes_are_messages(self, page: Any) -> None:
        page.get_by_role("button", name="Mark as wrong").click()
        page.get_by_text("there must be an image first").wait_for()
        drop(page, b"not an image at all", "text.png")
        page.get_by_text("an image must be").first.wait_for()
        drop(page, three_columns()[:60], "half.png")
        drop(page, bytes(2 * 1024 * 1024), "large.png")
        page.get_by_text("maximum allowed size").first.wait_for()
        huge = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + b"IHDR" + (5000).to_bytes(4) * 2 + bytes(9)
        drop(page, huge, "huge.png")
        page.get_by_text("at most 16,000,000 pixels, got 5000×5000").first.wait_for()
        drop(page, three_columns())
        facts(page, "area 1,536 px")

    def test_people_do_not_see_each_other(self, page: Any, chromium: Any, server: Server) -> None:
        drop(page, three_columns())
        facts(page, "area 1,536 px")
        other = chromium.new_page()
        opened(other, server)
        assert other.locator(".seg-facts").count() == 0
        drop(other, cv2.imencode(".png", np.full((SIDE, SIDE), 255, np.uint8))[1].tobytes(), "other.png")
        facts(other, "area 2,304 px")
        slide(page, "threshold", "0.8")
        facts(page, "area 768 px")
        facts(other, "area 2,304 px")
        slide(other, "threshold", "0.99")
        facts(other, "area 0 px")
        facts(page, "area 768 px")
        other.close()


def drawn(page: Any) -> np.ndarray:
    """The mask on the canvas, as it would be sent."""
    png = base64.b64decode(page.evaluate("segEditor.png()").partition(",")[2])
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert set(np.unique(image)) <= {0, 255}
    return (image == 255).astype(np.uint8)


@pytest.mark.slow
class TestServer:
    def test_no_file_is_served(self, server: Server, store: Store) -> None:
        for path in ("/etc/passwd", store.folder / "mlflow.db", server.corrections, "MLproject", PROJECT / "MLproject"):
            for route in ("/gradio_api/file=", "/file=", "/static/../../../../", "/gradio_api/static/"):
                status, body = server.get(f"{route}{path}")
                assert status in (403, 404, 405), (route, path, status)
                assert b"root:" not in body
                assert b"SQLite" not in body
                assert b"entry_points" not in body

    def test_what_is_no_image_is_never_a_page(self, server: Server) -> None:
        """Sent past the page, which takes images only."""
        body = (
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="evil.html"\r\n'
            b"Content-Type: text/html\r\n\r\n<script>alert(1)</script>\r\n--x--\r\n"
        )
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        request = urllib.request.Request(f"{server.address}/gradio_api/upload", data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            (path,) = json.loads(answer.read())
        with urllib.request.urlopen(f"{server.address}/gradio_api/file={path}", timeout=20) as answer:
            assert answer.headers["content-disposition"].startswith("attachment")
            assert answer.headers["content-type"] == "application/octet-stream"
        config = json.loads(server.get("/config")[1])
        taking = [found["props"] for found in config["components"] if found["type"] == "file"]
        assert [props["file_types"] for props in taking] == [["image", ".bmp", ".tif", ".tiff"]] * 2

    def test_no_event_takes_a_path(self, server: Server, store: Store) -> None:
        secret = store.folder / "secret.png"
        secret.write_bytes(three_columns())
        forged = {"path": str(secret), "meta": {"_type": "gradio.FileData"}, "orig_name": "scan.png"}
        taking_files = [
            event
            for event in json.loads(server.get("/config")[1])["dependencies"]
            if any(target[1] == "upload" for target in event["targets"])
        ]
        assert len(taking_files) == 2  # the image and the truth
        for event in taking_files:
            values = [forged, "@champion", ""][: len(event["inputs"])]
            body = {"data": values, "fn_index": event["id"], "session_hash": "forger", "trigger_id": None}
            assert server.get("/gradio_api/queue/join", json.dumps(body).encode())[0] == 200
            heard = server.get("/gradio_api/queue/data?session_hash=forger")[1].decode()
            assert '"success":false' in heard
            assert "seg-result" not in heard
        assert secret.exists()

    def test_nobody_outside_is_asked(self, server: Server) -> None:
        server.get("/")
        connections = psutil.Process(server.process.pid).net_connections()
        assert {one.laddr.ip for one in connections if one.laddr} == {"127.0.0.1"}
        assert {one.raddr.ip for one in connections if one.raddr} <= {"127.0.0.1"}

    def test_uploads_do_not_stay(self, server: Server) -> None:
        assert [path for path in server.temporary.rglob("scan.png") if path.is_file()] == []

    # Gradio leaves the socket open with which it tried the port.
    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_a_port_that_is_taken(self, server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        port = urlsplit(server.address).port
        options = ["--model_name=columns", f"--port={port}", f"--corrections={store.folder / 'none'}"]
        monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        with pytest.raises(UserError, match=f"host and port must be free, got 127.0.0.1 and {port}"):
            app.serve(app.build_parser().parse_args(options), Models(Registry(store.uri), "columns"), [])
        gc.collect()  # here, where its warning is ignored

    def test_ctrl_c_ends_it_and_leaves_nothing(self, server: Server) -> None:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 130
        assert [path.name for path in server.temporary.iterdir() if path.name.startswith("seg-app-")] == []


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"app needs its extra, and gradio is missing; pip install 'seg\[app\]'"):
        app.check_extra()
    assert "GRADIO_SHARE" not in os.environ
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--port=0", "port must lie between 1 and 65535, got 0"),
        ("--max_upload=0", "max_upload must lie between 1 and 256, got 0"),
        ("--max_upload=257", "max_upload must lie between 1 and 256, got 257"),
        ("--model_name=it's", "model_name must be without / : % and quotes, and not empty, got 'it's'"),
    ],
)
def test_limits(option: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        app.main([option])


def test_open_to_others_is_said(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setattr(app, "serve", lambda *_: None)
    monkeypatch.setattr(app, "start_tensorflow", lambda: None)
    monkeypatch.setattr(Models, "load", lambda *_: None)
    for host, said in (("127.0.0.1", False), ("0.0.0.0", True)):
        assert app.main(["--model_name=columns", f"--host={host}"]) == 0
        assert ("warning: 0.0.0.0 can be reached from other machines" in capsys.readouterr().err) == said


@pytest.mark.slow
class TestExamples:
    def test_the_one_that_travels(self, store: Store) -> None:
        assert app.find_examples("", Models(Registry(store.uri), "columns")) == [("example.png", three_columns())]

    def test_a_folder(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "b.png").write_bytes(three_columns())
        (tmp_path / "a.png").write_bytes(three_columns(9, 9))
        found = app.find_examples(str(tmp_path), Models(Registry(store.uri), "columns"))
        assert found == [("a.png", three_columns(9, 9)), ("b.png", three_columns())]

    def test_a_broken_one(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "b.png").write_bytes(b"b")
        with pytest.raises(UserError, match=r"examples must be images, and .*b\.png is none \(.*\); leave it out"):
            app.find_examples(str(tmp_path), Models(Registry(store.uri), "columns"))

    def test_no_model(self, store: Store) -> None:
        with pytest.raises(UserError, match="a version in the registry, got 'nothing'"):
            app.find_examples("", Models(Registry(store.uri), "nothing"))
