"""Look at a model in the browser: drop an image, move the threshold, compare two versions, correct what is wrong.

    python -m experiments.app --model_name seg-unet

Nothing leaves this machine: the page asks for nothing outside, and answers only this machine unless --host says
otherwise (it has no password). Ends with Ctrl-C. Needs the extra `app`: pip install 'seg[app]'.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.command_line import entry
from experiments.command_line.options import OPTIONS, parser
from experiments.predict import find_images
from experiments.registry.registry import Registry, check_name
from experiments.serve import warn_if_open
from experiments.tracking.tracker import Tracker
from experiments.web_page.models import Models
from seg.data.corrections import Corrections
from seg.data.images import MAX_BYTES, decode_image
from seg.errors import UserError
from seg.start import start_tensorflow

_MEGABYTE = 1024 * 1024
_EXAMPLES = 12  # at most, as many as can be looked over


def build_parser() -> argparse.ArgumentParser:
    names = ["model_name", "examples", "corrections", "host", "port", "max_upload"]
    return parser("app", __doc__, names, port=replace(OPTIONS["port"], default=7860))


def check_extra() -> None:
    """Imports Gradio for the first time, with every report home switched off.

    Raises:
        UserError: if it is not installed.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_") and name != "GRADIO_TEMP_DIR"]:
        del os.environ[name]  # the options decide, such as whether it is shared
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(f"app needs its extra, and {error.name} is missing; pip install 'seg[app]'.") from None


def find_examples(examples: str, models: Models) -> list[tuple[str, bytes]]:
    """The images to pick from, with their names: those of the folder, else the one that travels with the model.

    Raises:
        UserError: if `examples` names no image, or one that cannot be read.
    """
    if not examples:
        travelling = models.example(models.choices()[0][1])
        return [] if travelling is None else [("example.png", travelling)]
    found = []
    for path in find_images(examples, Path(os.devnull))[:_EXAMPLES]:
        try:
            content = path.read_bytes()
            decode_image(content)
        except (OSError, UserError) as error:
            raise UserError(f"examples must be images, and {path} is none ({error}); leave it out.") from None
        found.append((path.name, content))
    return found


def check_limits(values: argparse.Namespace) -> None:
    """Raises UserError unless the numbers among the options can be meant."""
    if not 0 < values.port < 65536:
        raise UserError(f"port must lie between 1 and 65535, got {values.port}; use 7860.")
    largest = MAX_BYTES // _MEGABYTE
    if not 0 < values.max_upload <= largest:
        raise UserError(f"max_upload must lie between 1 and {largest}, got {values.max_upload}; use 32.")


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    check_limits(values)
    check_name(values.model_name)
    check_extra()
    launch = entry.read_launch()
    models = Models(Registry(Tracker(launch.tracking_uri, None).uri), values.model_name)
    first = models.choices()[0][1]
    models.find(first)  # what the page cannot show is refused before anything is downloaded or TensorFlow starts
    found = find_examples(values.examples, models)
    warn_if_open(values.host)
    start_tensorflow()
    models.load(first)  # what is broken is said here, and the first person does not wait
    with tempfile.TemporaryDirectory(prefix="seg-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        serve(values, models, found)
    return 0


def serve(values: argparse.Namespace, models: Models, found: Sequence[tuple[str, bytes]]) -> None:
    """Answers until it is interrupted.

    Args:
        values: the options.
        models: to choose from.
        found: the examples.

    Raises:
        UserError: if it cannot answer at `host` and `port`.
    """
    from experiments.web_page import layout

    page = layout.Page(models, Corrections(Path(values.corrections)), found)
    blocks = layout.build(page, values.model_name)
    try:
        _, address, _ = blocks.queue(max_size=64).launch(
            server_name=values.host,
            server_port=values.port,
            share=False,
            max_file_size=values.max_upload * _MEGABYTE,
            allowed_paths=[],
            theme=layout.THEME,
            css=layout.CSS,
            head=layout.SCRIPT,
            footer_links=[],
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UserError(f"host and port must be free, got {values.host} and {values.port} ({error}).") from None
    print(f"{values.model_name}: {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    try:
        while True:
            time.sleep(3600)
    finally:
        blocks.close(verbose=False)


if __name__ == "__main__":
    entry.run(main)
