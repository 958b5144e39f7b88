"""Gradio's parts, so narrowed that no visitor makes the program open a path or an address."""

import contextlib
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder


def without_places(value: Any) -> Any:
    """A value of a request, made safe: Gradio opens the path or address of any file description.
    gr.Error unless it is made of plain values and files that were uploaded here.
    """
    if isinstance(value, list):
        return [without_places(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    place: Any = value.get("path")
    folder, path = Path(get_upload_folder()).resolve(), None
    with contextlib.suppress(OSError, RuntimeError, ValueError, TypeError):
        path = Path(place).resolve()
    if path is None or not path.is_relative_to(folder) or not path.is_file():
        raise gr.Error(
            "Upload the file (again): this is none that was uploaded here within the last hour.",
            print_exception=False,
        )
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


class Page(gr.Blocks):
    """Blocks that pass every request through :func:`without_places` before Gradio looks at it."""

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], *others: Any, **named: Any
    ) -> Any:
        """Gradio's step from a request to a function's arguments, queued or not."""
        safe = [without_places(value) for value in inputs]
        return await super().preprocess_data(block_fn, safe, *others, **named)
