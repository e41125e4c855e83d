"""Gradio's layout and events around `look` and `views`. Imports Gradio: import it where the page is started."""

from collections.abc import Callable, Sequence
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from experiments.web_page import views
from experiments.web_page.look import look_at
from experiments.web_page.models import LoadedModel, Models
from experiments.web_page.session import Session
from seg.data.corrections import Corrections
from seg.errors import UserError

_HERE = Path(__file__).parent
_FAILED = "That did not work"
_NOBODY = ""  # compared with no other model
_FORGET = 3600  # seconds without a change after which a session's image is forgotten
_IMAGES = ["image", ".bmp", ".tif", ".tiff"]  # by name, before anything is read; not every machine knows the last ones
_SWEEP = (60, 300)  # seconds: how often uploads are removed whose event never came, and at what age
CSS = (_HERE / "page.css").read_text(encoding="utf-8")
SCRIPT = "".join(
    f"<script>{(_HERE / name).read_text(encoding='utf-8')}</script>" for name in ("editor.js", "download.js")
)
# No web fonts: the page must look the same without a network.
THEME = gr.themes.Base(
    primary_hue="blue",
    neutral_hue="slate",
    font=["system-ui", "DejaVu Sans", "sans-serif"],
    font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
)


def _told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A mistake of the person becomes a message on the page, and changes nothing."""

    @wraps(handler)
    def told(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except UserError as error:
            raise gr.Error(escape(str(error)), print_exception=False, title=_FAILED) from None

    return told


def _emptied(handler: Callable[..., tuple[Any, ...]], outputs: int) -> Callable[..., tuple[Any, ...]]:
    """The place to drop the next file is empty again, whether this one could be used or not."""

    @wraps(handler)
    def emptied(*arguments: Any) -> tuple[Any, ...]:
        try:
            return (*handler(*arguments), None)
        except UserError as error:  # an error of Gradio's own would leave all components as they are
            gr.Warning(escape(str(error)), title=_FAILED)
            return (*(gr.skip() for _ in range(outputs)), None)

    return emptied


def _take(path: str) -> tuple[str, bytes]:
    """An uploaded file's name and bytes; the file itself is removed."""
    file = Path(path)
    content = file.read_bytes()
    file.unlink()
    return file.name, content


class Page:
    """The page's events: each takes what the components hold and returns what they shall hold.

    Args:
        models: that can be chosen.
        corrections: where they are saved.
        examples: to pick from, each a name and an encoded file.
    """

    def __init__(self, models: Models, corrections: Corrections, examples: Sequence[tuple[str, bytes]]) -> None:
        self._models = models
        self._corrections = corrections
        self.examples = examples

    def opened(self) -> tuple[Any, ...]:
        """Both choices and the head, as the registry has them when the page is loaded."""
        choices = self._models.choices()
        first = choices[0][1]
        model = self._models.load(first)
        others = gr.Dropdown(choices=[("nothing", _NOBODY), *choices], value=_NOBODY)
        return (
            gr.Dropdown(choices=choices, value=first),
            others,
            views.header(self._models.name, [model]),
            gr.Slider(value=model.predictor.threshold),
        )

    def uploaded(self, path: str | None, session: Session, chosen: str, other: str) -> tuple[Any, ...]:
        """A new image."""
        if path is None:
            raise UserError("an image must be there; drop one.")
        return self._looked(session, *_take(path), chosen, other)

    def picked(self, index: int, session: Session, chosen: str, other: str) -> tuple[Any, ...]:
        """An example instead of an upload."""
        return self._looked(session, *self.examples[index], chosen, other)

    def chose(self, session: Session, chosen: str, other: str) -> tuple[Any, ...]:
        """Another model or comparison; the image stays."""
        if not session.is_empty:
            return self._looked(session, session.look.name, session.look.content, chosen, other)
        return self._shown(session, self._load(chosen, other), views.welcome())

    def moved(self, index: int, threshold: float, session: Session) -> tuple[Session, str]:
        """The slider of a model: from what was predicted before, without the model."""
        if session.is_empty:
            return session, views.welcome()
        return session, session.change(lambda look: look.with_threshold(index, threshold), views.pictures)

    def compared(self, path: str | None, session: Session) -> tuple[Session, str]:
        """A truth, with which the predictions are compared from now on."""
        if path is None or session.is_empty:
            raise UserError("a truth needs an image first; drop one, then its mask.")
        _, content = _take(path)
        return session, session.change(lambda look: look.with_truth(content), views.pictures)

    def marked(self, session: Session) -> str:
        """The result is wrong."""
        return views.note(f"Noted as wrong: {session.look.mark_wrong(self._corrections)}")

    def began(self, session: Session) -> tuple[str, Any, str]:
        """The editor with the mask as it is now."""
        return views.to_redraw(session.look), gr.Column(visible=True), ""

    def downloads_mask(self, session: Session) -> str:
        """The mask as it is now, as a file."""
        return views.mask_file(session.look)

    def downloads_coco(self, session: Session) -> str:
        """The mask as it is now, as a COCO file."""
        return views.coco_file(session.look)

    def saved(self, drawn: str, session: Session) -> tuple[str, Any]:
        """What was redrawn."""
        where = session.look.redraw(self._corrections, drawn)
        told = f"Saved: {where}. Train with it: --additional {self._corrections.folder}"
        return views.note(told), gr.Column(visible=False)

    def _load(self, chosen: str, other: str) -> list[LoadedModel]:
        return [self._models.load(reference) for reference in (chosen, other) if reference != _NOBODY]

    def _looked(self, session: Session, name: str, content: bytes, chosen: str, other: str) -> tuple[Any, ...]:
        models = self._load(chosen, other)
        return self._shown(session, models, session.begin(look_at(name, content, models), views.pictures))

    def _shown(self, session: Session, models: Sequence[LoadedModel], pictures: str) -> tuple[Any, ...]:
        """Everything on the page that depends on the image or the models: no note and no editor of another image."""
        first, last = models[0].predictor, models[-1].predictor
        return (
            session,
            views.header(self._models.name, models),
            pictures,
            gr.Slider(value=first.threshold),
            gr.Slider(value=last.threshold, visible=len(models) == 2),
            "",
            gr.Column(visible=False),
        )


def build(page: Page, title: str) -> gr.Blocks:
    """The page's components and what happens between them."""
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=_SWEEP, fill_width=True) as blocks:
        session = gr.State(Session(), time_to_live=_FORGET)
        drawn, source, file = (gr.Textbox(visible=False) for _ in range(3))
        head = gr.HTML()
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                drop = gr.File(label="Image", file_types=_IMAGES, height=170, elem_id="image")
                if page.examples:
                    gallery = gr.HTML(views.gallery(page.examples), js_on_load=_PICK, elem_id="examples")
                chosen = gr.Dropdown(label="Model", elem_id="model")
                other = gr.Dropdown(label="Compare with", elem_id="other")
                threshold = gr.Slider(0, 1, step=0.01, label="Threshold", elem_id="threshold")
                second = gr.Slider(0, 1, step=0.01, label="Threshold of the other", visible=False, elem_id="second")
                with gr.Accordion("Compare with a true mask", open=False):
                    truth = gr.File(
                        label="Mask: not black is foreground", file_types=_IMAGES, height=120, elem_id="truth"
                    )
            with gr.Column(scale=3, min_width=420):
                pictures = gr.HTML(views.welcome(), elem_id="pictures")
                with gr.Row():
                    mask = gr.Button("Download mask", scale=0, min_width=170, elem_id="mask")
                    coco = gr.Button("Download COCO JSON", scale=0, min_width=170, elem_id="coco")
                    wrong = gr.Button("Mark as wrong", scale=0, min_width=170, elem_id="wrong")
                    redraw = gr.Button("Redraw the mask", scale=0, min_width=170, elem_id="redraw")
                note = gr.HTML(elem_id="note")
                with gr.Column(visible=False, elem_id="canvas") as canvas:
                    gr.HTML(views.editor())
                    save = gr.Button("Save correction", variant="primary", scale=0, elem_id="save")

        shown = [session, head, pictures, threshold, second, note, canvas]
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        busy: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "model"}
        blocks.load(_told(page.opened), None, [chosen, other, head, threshold], **hidden)
        drop.upload(_emptied(page.uploaded, len(shown)), [drop, session, chosen, other], [*shown, drop], **busy)
        truth.upload(_emptied(page.compared, 2), [truth, session], [session, pictures, truth], **hidden)
        if page.examples:

            def picked(event: gr.SelectData, session: Session, chosen: str, other: str) -> tuple[Any, ...]:
                return tuple(_told(page.picked)(event.index, session, chosen, other))

            gallery.select(picked, [session, chosen, other], shown, **busy)
        for choice in (chosen, other):
            choice.input(_told(page.chose), [session, chosen, other], shown, **busy)
        for index, slider in enumerate((threshold, second)):
            slider.input(
                _mover(page, index),
                [slider, session],
                [session, pictures],
                trigger_mode="always_last",
                concurrency_limit=8,
                **hidden,
            )
        for button, handler in ((mask, page.downloads_mask), (coco, page.downloads_coco)):
            made = button.click(_told(handler), [session], [file], **hidden)
            made.success(None, [file], None, js="(file) => { window.segDownload(file); }", api_visibility="private")
        wrong.click(_told(page.marked), [session], [note], **hidden)
        began = redraw.click(_told(page.began), [session], [source, canvas, note], **hidden)
        began.success(
            None, [source], None, js="(source) => { window.segEditor.load(source); }", api_visibility="private"
        )
        save.click(_told(page.saved), [drawn, session], [note, canvas], js=_WITH_DRAWING, **hidden)
    return blocks


_PICK = """element.addEventListener("click", (event) => {
  const chosen = event.target.closest("button");
  if (chosen) trigger("select", { index: Number(chosen.dataset.index), value: chosen.title });
})"""
_WITH_DRAWING = "(drawn, session) => [window.segEditor.png(), session]"


def _mover(page: Page, index: int) -> Callable[[float, Session], tuple[Session, str]]:
    return lambda threshold, session: page.moved(index, threshold, session)
