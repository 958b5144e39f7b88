"""What the page's controls do. Errors that a visitor can mend come back as text for the page."""

from __future__ import annotations

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

from pathlib import Path
from typing import Any

import gradio as gr

from ..runtime import memory
from ..runtime.program import one_line, user_errors
from ..runtime.recent import Recent
from ..vocabulary import Vocabulary
from . import rendering, words
from .answers import Answer, Answers, Request
from .background import Background, threshold_of
from .pictures import Picture

LIST_BYTES = 2**20
SESSIONS = 10_000
"""Open pages of which is known whose answer is whose."""


class Handlers:
    """The functions behind the controls: they answer with values of Gradio's components."""

    def __init__(self, answers: Answers, pictures: list[Picture]) -> None:
        self.answers, self.pictures = answers, pictures
        self._tokens: Recent[str, str] = Recent(SESSIONS)

    def segment(
        self,
        image: str | None,
        classes: str,
        rule: str,
        threshold: float,
        background: str,
        class_threshold: str,
        system: str,
        opacity: float,
        token: str,
        visit: gr.Request,
    ) -> tuple[Any, ...]:
        """Message, visibility of the results, overlay, legend, boxes of the classes, the three
        files, no pixel yet, and the token; after an error the message alone.

        Args:
            image: the uploaded file. classes, background: words as typed. token: of the answer
                before, which is dropped. visit: Gradio's own. others: see :class:`Background`
                and :class:`Request`.
        """
        try:
            if not image:
                raise ValueError("Upload an image first, or take an example")
            self.answers.forget(token)
            least = threshold_of("Class threshold", class_threshold)
            wanted = Background(rule, threshold, background or "", least)
            examples = self.answers.shown.of(visit.session_hash or "")
            answer = self.answers.ask(Request(system, image, classes or "", wanted, examples))
            if visit.session_hash:
                self._tokens.put(visit.session_hash, answer.token)
            return (
                words.notes(words.asked_names(answer.vocabulary, answer.prediction)),
                gr.update(visible=True),
                rendering.shown(answer, opacity, ()),
                words.legend(answer),
                _boxes(answer),
                *rendering.save_files(answer, opacity),
                "",
                answer.token,
            )
        except user_errors() as error:
            return _said(error, image), gr.update(visible=False), *[None] * 6, "", ""
        finally:
            memory.give_back_freed_memory()

    def leave(self, visit: gr.Request) -> None:
        """Drop the answer of a visitor who has closed the page."""
        session = visit.session_hash or ""
        self.answers.forget(self._tokens.get(session) or "")
        self._tokens.drop(session)
        self.answers.shown.forget(session)

    def show(
        self, image: str | None, mask: str | None, name: str, system: str, visit: gr.Request
    ) -> tuple[Any, Any, str]:
        """Image and mask, which are emptied, and the message, of an example that is kept until its
        visitor leaves.
        """
        try:
            if not (image and mask and visit.session_hash):
                raise ValueError("Example: upload an image and its mask first")
            count = self.answers.show(visit.session_hash, system, name or "", image, mask)
            return None, None, words.notes([f"Examples so far: {count}. Press Segment"])
        except user_errors() as error:
            return gr.skip(), gr.skip(), _said(error, mask)

    def forget_shown(self, visit: gr.Request) -> str:
        """Forget a visitor's examples; the message."""
        self.answers.shown.forget(visit.session_hash or "")
        return words.notes(["No examples any more"])

    def check_image(self, image: str | None, system: str) -> Any:
        """The message on an image that was just uploaded, if it is too large."""
        try:
            if image:
                self.answers.check_image(system, image)
        except user_errors() as error:
            return _said(error, image)
        return gr.skip()

    def repaint(self, token: str, opacity: float, visible: list[int]) -> tuple[Any, Any, str]:
        """Overlay, its file and message for another opacity, or other classes that are visible."""
        try:
            answer = self.answers.find(token)
            hidden = set(range(len(answer.vocabulary))).difference(map(int, visible))
            overlay = rendering.shown(answer, opacity, hidden)
            return overlay, rendering.overlay_file(answer, opacity, hidden), ""
        except user_errors() as error:
            return gr.skip(), gr.skip(), _said(error)

    def clicked(self, token: str, event: gr.SelectData) -> tuple[Any, Any, str]:
        """Column and row of the pixel that was clicked in the overlay, and what it is."""
        try:
            answer = self.answers.find(token)
        except ValueError as error:
            return gr.skip(), gr.skip(), _said(error)
        height, width = answer.prediction.labels.shape
        scale = rendering.scale_of(answer)
        column, row = (int((place + 0.5) / scale) for place in event.index)
        column, row = min(column, width - 1), min(row, height - 1)
        return column, row, self.name_pixel(token, column, row)

    def name_pixel(self, token: str, column: float | None, row: float | None) -> str:
        """What a pixel of the image is, or an error."""
        try:
            answer = self.answers.find(token)
            return words.pixel(answer, self.answers.best(token), *_place(column, row))
        except user_errors() as error:
            return _said(error)

    def look_from(self, token: str, column: float | None, row: float | None) -> tuple[Any, Any]:
        """The picture of what the patch at a pixel takes of the others, and no text; or no picture
        and the error.
        """
        try:
            answer, point = self.answers.find(token), _place(column, row)
            drawn = rendering.attention(answer, self.answers.attention(token, point), point)
            return gr.update(value=drawn, visible=True), gr.skip()
        except user_errors() as error:
            return gr.update(value=None, visible=False), _said(error)

    def read_list(self, file: str | None) -> tuple[Any, str]:
        """The classes of an uploaded list, one a line, and the message."""
        try:
            if not file:
                return gr.skip(), ""
            return _text_of_list(Path(file)), ""
        except user_errors() as error:
            return gr.skip(), _said(error, file)

    def example(self, index: int) -> tuple[Any, str, str]:
        """Picture, words and message of an example."""
        picture = self.pictures[index]
        return picture.draw(), picture.words, ""

    def of_system(self, system: str, threshold: float) -> Any:
        """The slider of the background's threshold for a system's range."""
        try:
            largest = self.answers.systems.largest_confidence(system)
        except user_errors():  # which the button says
            return gr.skip()
        return gr.update(maximum=largest, value=min(threshold, largest))


def _place(column: float | None, row: float | None) -> tuple[int, int]:
    """A pixel as typed; ValueError for none."""
    if column is None or row is None:
        raise ValueError("Pixel: type its column and its row, or click on the overlay")
    return int(column), int(row)


def of_rule(rule: str) -> tuple[Any, Any]:
    """Visibility of the threshold and of the words of the background."""
    return gr.update(visible=rule == "threshold"), gr.update(visible=rule == "words")


def _said(error: BaseException, file: str | None = None) -> str:
    """An error for the page, in which an uploaded file has its own name."""
    text = one_line(error)
    return words.error(text.replace(file, Path(file).name) if file else text)


def _boxes(answer: Answer) -> Any:
    """A ticked box for each class in the image."""
    rows = enumerate(answer.prediction.to_table())
    present = sorted((-row.pixels, i, row.name) for i, row in rows if row.pixels)
    return gr.update(
        choices=[(name, i) for _, i, name in present], value=[i for _, i, _ in present]
    )


def _text_of_list(path: Path) -> str:
    """Classes of a .txt or .json class file as text of a line for each; ValueError for one that is
    too large or no such list.
    """
    size = path.stat().st_size
    if size > LIST_BYTES:
        got = f"got {size / 2**20:.1f} MB, expected at most {LIST_BYTES // 2**20} MB"
        raise ValueError(f"class file {path.name!r}: {got}")
    listed = Vocabulary.from_file(path)
    end = ";" if len(listed) == 1 else ""
    return "\n".join(", ".join(synonyms) for synonyms in listed.classes) + end
