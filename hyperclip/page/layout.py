"""The page: its controls, and which of the handlers each of them calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from .answers import Answers
from .background import RULES
from .blocks import Page
from .handlers import Handlers, of_rule
from .pictures import pictures
from .rendering import OPACITY
from .systems import Systems
from .words import error

AGE = 3600
"""Seconds that uploads, answers and their files are kept at most."""
WAITING = 64
"""Visitors that may wait for their turn."""
FAILED = (
    "The page could not answer. Uploads are kept for an hour: upload the image again. If that does "
    "not help, the program's log says more."
)


@dataclass
class Asked:
    """The controls of a question, in the order of :meth:`Handlers.segment`'s arguments."""

    image: Any
    classes: Any
    rule: Any
    threshold: Any
    words: Any
    class_threshold: Any
    system: Any


@dataclass
class Shown:
    """The parts of an answer, in the order of what :meth:`Handlers.segment` returns."""

    results: Any
    overlay: Any
    legend: Any
    visible: Any
    overlay_file: Any
    labels_file: Any
    coco_file: Any
    pixel: Any


def build_page(answers: Answers) -> gr.Blocks:
    """The page. Nothing is fetched from elsewhere. Answers come one after the other, and whoever
    waits sees the place in the queue.
    """
    handlers = Handlers(answers, pictures())
    with Page(title="Segment anything you can name", delete_cache=(600, AGE)) as page:
        gr.Markdown("# Segment anything you can name")
        token: Any = gr.State("", time_to_live=AGE, delete_callback=answers.forget)
        with gr.Row():
            with gr.Column():
                message: Any = gr.HTML(
                    label="Message", elem_id="message", min_height=48, render=False
                )
                asked = _question(handlers, message)
                button = gr.Button("Segment", variant="primary", elem_id="segment")
                message.render()
                _shown_by_visitors(handlers, asked, message)
                _examples(handlers, asked, message)
            with gr.Column():
                shown, opacity = _answer(handlers, token, message)
        done = button.click(
            handlers.segment,
            [*vars(asked).values(), opacity, token],
            [message, *vars(shown).values(), token],
            api_name="segment",
            show_progress_on=message,
        )
        page.unload(handlers.leave)
        done.failure(lambda: error(FAILED), None, message, api_visibility="private")
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def _question(handlers: Handlers, message: Any) -> Asked:
    """What is asked; uploads are checked at once."""
    limits, systems = handlers.answers.limits, handlers.answers.systems
    sources: Any = ["upload", "clipboard"]
    most = f"up to {limits.bytes / 2**20:g} MB, {limits.pixels / 1e6:g} megapixels"
    image: Any = gr.Image(
        type="filepath", label=f"Image, {most}", sources=sources, format="png", elem_id="picture"
    )
    # The file as it was uploaded, for our own reader
    image.preprocess = lambda payload: None if payload is None else payload.path
    # Two lines: a box of one would join pasted lines to one name
    classes: Any = gr.Textbox(
        "",
        label="Classes",
        info="A line end or ; separates classes, a comma the synonyms of one class.",
        lines=2,
        placeholder="dog, puppy; road; sky",
        elem_id="classes",
    )
    listed: Any = gr.UploadButton(
        "Upload a class list (.txt, one name a line)",
        file_types=[".txt", ".json"],
        size="sm",
        elem_id="class-list",
    )
    rule, threshold, words = _background(systems.largest_confidence(systems.names[0]))
    system, class_threshold = _system(systems)
    private: Any = {"api_visibility": "private", "show_progress": "hidden"}
    image.upload(handlers.check_image, [image, system], message, **private)
    image.clear(lambda: "", None, message, **private)
    listed.upload(handlers.read_list, listed, [classes, message], **private)
    system.change(handlers.of_system, [system, threshold], threshold, **private)
    return Asked(image, classes, rule, threshold, words, class_threshold, system)


def _system(systems: Systems) -> tuple[Any, Any]:
    """The system, and the threshold for its classes."""
    with gr.Accordion("System and classes that are left out", open=False):
        system: Any = gr.Dropdown(
            systems.names, value=systems.names[0], label="System", elem_id="system"
        )
        # No box for numbers: Gradio fills an empty one with 0
        class_threshold: Any = gr.Textbox(
            "",
            label="Class threshold",
            info="Classes whose best pixel stays below it are left out.",
            placeholder="the system's own",
            max_lines=1,
            elem_id="class-threshold",
        )
    return system, class_threshold


def _background(largest: float) -> tuple[Any, Any, Any]:
    """The rule for pixels of no class, and what it takes."""
    choices = [(text, name) for name, text in RULES.items()]
    rule: Any = gr.Radio(choices, value="own", label="Background", elem_id="background")
    threshold: Any = gr.Slider(
        0, largest, value=0.5, step=0.01, label="Confidence", visible=False, elem_id="threshold"
    )
    words: Any = gr.Textbox(
        "",
        label="Background words",
        info="Pixels that fit one of these best get no class.",
        lines=2,
        placeholder="wall; sky",
        visible=False,
        elem_id="background-words",
    )
    rule.change(of_rule, rule, [threshold, words], api_visibility="private", show_progress="hidden")
    return rule, threshold, words


def _shown_by_visitors(handlers: Handlers, asked: Asked, message: Any) -> None:
    """Examples of a visitor's own beside the words."""
    private: Any = {"api_visibility": "private", "show_progress": "hidden"}
    with gr.Accordion("Show what a class looks like", open=False):
        parts: list[Any] = [
            gr.Image(type="filepath", label=label, sources=["upload"], height=160, elem_id=name)
            for label, name in (
                ("An image with the class", "example-image"),
                ("Its mask: PNG, one channel, 0 for the rest", "example-mask"),
            )
        ]
        for part in parts:
            part.preprocess = lambda payload: None if payload is None else payload.path
        name: Any = gr.Textbox(
            "", label="Name of the class, one of those above", max_lines=1, elem_id="example-name"
        )
        with gr.Row():
            add = gr.Button("Add example", size="sm", elem_id="example-add")
            forget = gr.Button("Forget examples", size="sm", elem_id="example-forget")
    add.click(handlers.show, [*parts, name, asked.system], [*parts, message], **private)
    forget.click(handlers.forget_shown, None, message, **private)


def _examples(handlers: Handlers, asked: Asked, message: Any) -> None:
    """Pictures and words to try."""
    titles = [picture.title for picture in handlers.pictures]
    examples: Any = gr.Dataset(
        label="Examples",
        components=["textbox"],
        samples=[[title] for title in titles],
        sample_labels=titles,
        type="index",
        elem_id="examples",
    )
    examples.click(
        handlers.example,
        examples,
        [asked.image, asked.classes, message],
        api_visibility="private",
        show_progress="hidden",
    )


def _answer(handlers: Handlers, token: Any, message: Any) -> tuple[Shown, Any]:
    """What is shown of an answer, and the opacity of its overlay."""
    private: Any = {"api_visibility": "private", "show_progress": "hidden"}
    with gr.Column(visible=False) as results:
        overlay: Any = gr.Image(
            label="Result: click for a pixel's scores",
            alt_text="The image with its classes painted over it; the legend lists them",
            format="png",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="overlay",
        )
        pixel: Any = gr.HTML(label="Pixel", elem_id="pixel", min_height=24)
        opacity: Any = gr.Slider(
            0, 1, value=OPACITY, step=0.05, label="Opacity of the overlay", elem_id="opacity"
        )
        legend = gr.HTML(label="Legend", elem_id="legend")
        visible: Any = gr.CheckboxGroup(
            label="Visible classes", elem_id="visible", elem_classes="hc-scroll"
        )
        with gr.Row():
            files = [
                gr.DownloadButton(label, size="sm", min_width=100, elem_id=name)
                for label, name in (
                    ("Overlay (PNG)", "overlay-file"),
                    ("Label map (PNG)", "labels-file"),
                    ("Masks (COCO JSON)", "coco-file"),
                )
            ]
        _pixel(handlers, token, overlay, pixel)
    repaint = (handlers.repaint, [token, opacity, visible], [overlay, files[0], message])
    opacity.change(*repaint, trigger_mode="always_last", **private)
    visible.input(*repaint, trigger_mode="always_last", **private)
    return Shown(results, overlay, legend, visible, files[0], files[1], files[2], pixel), opacity


def _pixel(handlers: Handlers, token: Any, overlay: Any, pixel: Any) -> None:
    """The pixel that is named: by a click, or by typing where it is."""
    with gr.Row():
        column: Any = gr.Number(
            label="Column", precision=0, minimum=0, min_width=80, elem_id="column"
        )
        row: Any = gr.Number(label="Row", precision=0, minimum=0, min_width=80, elem_id="row")
        ask = gr.Button("Name this pixel", size="sm", min_width=100, elem_id="name-pixel")
        look = gr.Button("What it attends to", size="sm", min_width=100, elem_id="look-from")
    attention: Any = gr.Image(
        label="What the pixel's patch takes of the others (CLIPer)",
        alt_text="The image in grey; yellow is what the marked pixel's patch takes most of",
        format="png",
        interactive=False,
        visible=False,
        buttons=["fullscreen"],
        elem_id="attention",
    )
    overlay.select(
        handlers.clicked,
        token,
        [column, row, pixel],
        api_visibility="private",
        show_progress="minimal",
        show_progress_on=pixel,
    )
    for event in (ask.click, column.submit, row.submit):
        event(handlers.name_pixel, [token, column, row], pixel, api_visibility="private")
    look.click(
        handlers.look_from, [token, column, row], [attention, pixel], api_visibility="private"
    )
    # the picture belongs to the answer before
    token.change(
        lambda: gr.update(value=None, visible=False),
        None,
        attention,
        api_visibility="private",
        show_progress="hidden",
    )
