"""A page to try any image and any words: hyperclip-app, then open the address that it prints.

It starts on the best model of which everything is on this machine, and listens on this machine only
(--share publishes it). Other systems come from configs, with KEY VALUE pairs of their own:

    hyperclip-app --config-file configs/vitb_384_hyperbolic.yaml MODEL.WEIGHTS model_final.pth \\
        --config-file configs/cliper/vit-b-16/ovs_voc21.yaml

Visitors choose among these systems and upload images; nothing that they send is taken for a path or
an address. Uploads are kept for an hour at most, in a folder that is removed when the program ends.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import base64
import contextlib
import html
import io
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

try:
    import gradio as gr  # noqa: E402
except ImportError as error:
    raise ImportError(f"the page needs Gradio ({error}): pip install 'hyperclip[demo]'") from error
from detectron2.config import CfgNode  # noqa: E402
from gradio.utils import get_upload_folder  # noqa: E402
from PIL import Image  # noqa: E402

from .. import zoo  # noqa: E402
from ..config import input_keys, load_config, plain_settings  # noqa: E402
from ..data import read_image  # noqa: E402
from ..evaluation.kept_rows import content_hash  # noqa: E402
from ..predictor import Prediction, Predictor  # noqa: E402
from ..runtime import files, memory, program  # noqa: E402
from ..visualization import label_image, overlay  # noqa: E402
from ..vocabulary import Vocabulary  # noqa: E402
from . import register_systems  # noqa: E402

logger = logging.getLogger("hyperclip.app")

QUICK_TRAINED = "HyperCLIP (quickstart, trained by run_train_test.sh)"
SYSTEMS = {
    "CLIPer (quickstart)": "configs/quickstart/cliper.yaml",
    QUICK_TRAINED: "configs/quickstart/hyperclip.yaml",
}
"""Config file of each system on offer, by the name that visitors see."""
OVERRIDES: dict[str, list[str]] = {}
"""KEY VALUE pairs of the systems that have some."""
TRAINED = {QUICK_TRAINED: "output/quickstart/hyperclip/model_final.pth"}
"""Checkpoints of systems, used as soon as they exist."""


def offer_first(configs: Sequence[Sequence[str]]) -> None:
    """Put configs, each a file and its KEY VALUE pairs, before the quickstart's systems, of which
    those are left out whose package is not installed; without any, the best model of
    :mod:`hyperclip.zoo` that is on this machine. Raises as :func:`load_config` does.
    """
    before = {name: file for name, file in SYSTEMS.items() if _loads(name, file)}
    SYSTEMS.clear()
    given: Counter[str] = Counter()
    if not configs:
        with contextlib.suppress(FileNotFoundError):  # the quickstart's systems are left
            _offer(zoo.best_here(), before)
    for file, *overrides in configs:
        load_config(file, overrides)
        given[file] += 1
        name = f"{file} ({given[file]})" if given[file] > 1 else file
        SYSTEMS[name], OVERRIDES[name] = str(files.local_path(file).resolve()), overrides
    SYSTEMS.update(before)


def _offer(model: zoo.ZooModel, others: dict[str, str]) -> None:
    """Put a model first, unless its config is among the others."""
    if model.config not in others.values():
        SYSTEMS[model.what], OVERRIDES[model.what] = model.config, list(model.overrides)


def _loads(name: str, file: str) -> bool:
    try:
        load_config(file)
    except (OSError, ValueError) as error:
        logger.warning("%s is not offered: %s", name, str(error).partition(";")[0])
        return False
    return True


def content_of(cfg: CfgNode) -> tuple[str, ...]:
    """A config, and the names and hashes of the files and folders that it names."""
    values = plain_settings(cfg)
    named = [values[key] for key in input_keys()]
    places = [files.local_path(name) for name in named if isinstance(name, str) and name]
    return (cfg.dump(), *(f"{place} {content_hash(place)}" for place in places if place.exists()))


def config_of(system: str) -> CfgNode:
    """The config of a name in ``SYSTEMS``, with its checkpoint if that exists by now."""
    trained = files.local_path(TRAINED.get(system, ""))
    weights = ["MODEL.WEIGHTS", str(trained)] if trained.is_file() else []
    return load_config(SYSTEMS[system], [*OVERRIDES.get(system, []), *weights])


class Predictors:
    """Builds systems when first asked for or after their content has changed; keeps two."""

    def __init__(self) -> None:
        self._built: OrderedDict[tuple[str, ...], Predictor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, system: str) -> Predictor:
        """The predictor of a name in ``SYSTEMS``; raises as :meth:`Predictor.from_config` does."""
        with self._lock:
            cfg = config_of(system)
            key = content_of(cfg)
            while key not in self._built:
                predictor = Predictor.from_config(cfg)
                before, key = key, content_of(cfg)
                if key == before:  # else its files changed while they were read
                    self._built[key] = predictor
            self._built.move_to_end(key)
            while len(self._built) > 2:
                self._built.popitem(last=False)
            return self._built[key]


predictors = Predictors()


def checked_threshold(name: str, value: Any) -> float | None:
    """A typed threshold, None for an empty box; ValueError unless it is a number from 0 to 2."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:
        expected = "a number from 0 to 2, or nothing for the system's own."
        raise ValueError(f"{name}: got {value!r}, expected {expected}")
    return float(value)


def asked_names(vocabulary: Vocabulary, prediction: Prediction) -> str:
    """HTML that lists the classes asked by several names, and what else may have been meant."""
    rule = prediction.synonyms
    several = [names for names in prediction.asked or () if len(names) > 1]
    lines = [f"{n[0]}: asked by {', '.join(n)} ({rule} of these names)" for n in several]
    if vocabulary.doubt:
        lines.append(f"Warning: {vocabulary.doubt}")
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def segment(
    image: str | None,
    classes: str,
    background: str,
    score: float | None,
    pixel: float | None,
    system: str,
) -> tuple[str, str]:
    """What the button does: overlay with legend, and label map, as HTML that holds the images;
    gr.Error for anything that the user can mend, with what to do.

    Args:
        image: the uploaded file. classes, background: words as typed. system: of ``SYSTEMS``.
        score, pixel: thresholds below which classes and pixels get no label; None takes the
            config's, 0 leaves nothing out.
    """
    if not image:
        raise _error("Upload an image first.")
    if system not in SYSTEMS:
        raise _error(f"Unknown system {system!r}, expected one of {list(SYSTEMS)}.")
    try:
        score = checked_threshold("Class threshold", score)
        pixel = checked_threshold("Pixel threshold", pixel)
        vocabulary = Vocabulary.from_text(classes or "", background or "")
        keys = config_of(system).INPUT
        array = read_image(image, image_bits=keys.IMAGE_BITS, max_pixels=keys.MAX_PIXELS)
        predictor = predictors.get(system)
        prediction = predictor.segment(
            predictor.encode(array), vocabulary, class_threshold=score, threshold=pixel
        )
    except (ImportError, OSError, ValueError) as error:
        raise _error(str(error).replace(image, Path(image).name)) from error
    painted = Image.fromarray(overlay(array, prediction.labels, prediction.names))
    shown = _data_url(painted, "overlay.png")
    labels = _data_url(label_image(prediction.labels, len(vocabulary)), "labels.png")
    return (
        f'<img src="{shown}" alt="The image with its classes painted over it" '
        'style="max-width: 100%">',
        f'<a href="{labels}" download="labels.png">labels.png</a>: class index of each pixel, 255 '
        "for none (65535 from 255 classes on)" + asked_names(vocabulary, prediction),
    )


def _error(message: str) -> gr.Error:
    """What the visitor sees, without a traceback in the program's own output."""
    return gr.Error(message, print_exception=False)


def _data_url(image: Image.Image, name: str) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return f"data:image/png;name={name};base64,{base64.b64encode(file.getvalue()).decode()}"


def without_places(value: Any) -> Any:
    """A value of a request, made safe: Gradio opens the path or address of any file description.
    gr.Error unless it is a plain value or a file that was uploaded here.
    """
    if not isinstance(value, (dict, list)):
        return value
    place: Any = value.get("path") if isinstance(value, dict) else None
    folder, path = Path(get_upload_folder()).resolve(), None
    with contextlib.suppress(OSError, RuntimeError, ValueError, TypeError):
        path = Path(place).resolve()
    if path is None or not path.is_relative_to(folder) or not path.is_file():
        raise _error(
            "Upload the image (again): this is no file that was uploaded here within the last hour."
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


def _threshold_box(label: str, info: str) -> gr.Number:
    element, empty = label.lower().replace(" ", "-"), "the system's own"
    return gr.Number(None, label=label, info=info, placeholder=empty, step=0.01, elem_id=element)


def build_page() -> gr.Blocks:
    """The page. Fonts are the browser's own, so that nothing is fetched."""
    with Page(title="Segment anything you can name", delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "## Segment anything you can name\n`;` or a new line separates classes, `,` synonyms "
            "of one class."
        )
        with gr.Row():
            with gr.Column():
                sources: Any = ["upload", "clipboard"]
                image: Any = gr.Image(
                    type="filepath", label="Image", sources=sources, elem_id="picture"
                )
                # The file as it was uploaded, for our own reader
                image.preprocess = lambda payload: None if payload is None else payload.path
                # Two lines: a box of one would join pasted lines to one name
                hint = "dog, puppy; road; sky"
                classes = gr.Textbox(label="Classes", lines=2, placeholder=hint, elem_id="classes")
                hint = "wall; grass (CLIPer only, may be empty)"
                background = gr.Textbox(
                    label="Background words", lines=2, placeholder=hint, elem_id="background"
                )
                with gr.Row():
                    score = _threshold_box("Class threshold", "classes below it are left out")
                    pixel = _threshold_box("Pixel threshold", "pixels below it get no class")
                system = gr.Dropdown(
                    list(SYSTEMS), value=next(iter(SYSTEMS)), label="System", elem_id="system"
                )
                button = gr.Button("Segment", variant="primary", elem_id="segment")
            with gr.Column():
                shown = gr.HTML(label="Result", elem_id="overlay")
                labels = gr.HTML(label="Label map", elem_id="labels")
        inputs = [image, classes, background, score, pixel, system]
        button.click(segment, inputs, [shown, labels])
    return page


def check_port(port: int) -> None:
    """ValueError or OSError unless the page can listen on this port of the machine."""
    if not 0 < port < 2**16:
        raise ValueError(f"--port: got {port}, expected 1 to 65535")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name != "nt"))
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            reason = f"where nothing can listen ({error.strerror}). Choose another one"
            raise OSError(f"--port: got {port}, {reason}") from error


def main(argv: Sequence[str] | None = None) -> None:
    """Open the page for as long as this process runs."""
    register_systems()
    parser = program.program_parser(__doc__)
    add = parser.add_argument
    names, offer = ("FILE", "KEY VALUE"), "offer this system too, first"
    add("--config-file", action="append", nargs="+", default=[], metavar=names, help=offer)
    add("--port", type=int, default=7860)
    add("--share", action="store_true", help="publish the page through Gradio's tunnel")
    arguments = parser.parse_args(argv)
    check_port(arguments.port)
    memory.keep_freed_memory()
    offer_first(arguments.config_file)
    # so that the folder below is removed then, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    fonts = ["system-ui", "sans-serif"]
    with tempfile.TemporaryDirectory(prefix="uploads-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of this program alone
        build_page().launch(
            server_name="127.0.0.1",
            server_port=arguments.port,
            share=arguments.share,
            theme=gr.themes.Default(font=fonts, font_mono=["monospace"]),
        )
