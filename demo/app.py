#!/usr/bin/env python
"""A page to try any picture and any words: python demo/app.py, then open the address that it prints.

It starts on the quickstart's weights, without a network, and listens on this machine only (--share publishes it). Other
systems come from configs:

    python demo/app.py --config-file configs/cliper/vit-b-16/ovs_voc21.yaml
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import cliper  # noqa: E402
import gradio as gr  # noqa: E402
import hyperclip.data  # noqa: E402, F401  (checks the installation)
import numpy as np  # noqa: E402
from cliper.postprocess import LabelOptions  # noqa: E402
from hyperclip.data import read_image  # noqa: E402
from hyperclip.memory import keep_freed_memory  # noqa: E402
from hyperclip.predictor import Prediction, Predictor  # noqa: E402
from hyperclip.visualization import BACKGROUND, label_image, overlay  # noqa: E402
from hyperclip.vocabulary import Vocabulary  # noqa: E402

ROOT = Path(__file__).parents[1]
SYSTEMS = {
    "CLIPer (quickstart)": "configs/quickstart/cliper.yaml",
    "HyperCLIP (quickstart, trained by run_train_test.sh)": "configs/quickstart/hyperclip.yaml",
}
TRAINED = {"HyperCLIP (quickstart, trained by run_train_test.sh)": "output/quickstart/hyperclip/model_final.pth"}
"""Checkpoints that systems use when no other is given."""


@lru_cache(maxsize=2)
def load_predictor(config: str, weights: str) -> Predictor:
    """Build a system once; the two used last are kept."""
    return Predictor.from_config(config, ["MODEL.WEIGHTS", weights] if weights else [])


def predict(predictor: Predictor, vocabulary: Vocabulary, score_threshold: float, pixel_threshold: float) -> Prediction:
    """Segment the predictor's image; classes and pixels below their thresholds get no label.

    With both thresholds at 0 every pixel gets its best class.
    """
    if isinstance(predictor.model, cliper.CLIPer):
        protocol = "abstain" if score_threshold or pixel_threshold else "argmax"
        return predictor.predict(vocabulary, labels=LabelOptions(protocol, score_threshold, max(pixel_threshold, 1e-6)))
    found = predictor.predict(vocabulary)
    best = [found.confidence[found.labels == i].max(initial=0) for i in range(len(vocabulary))]
    nothing = (found.confidence < pixel_threshold) | (np.array(best) < score_threshold)[found.labels]
    return Prediction(np.where(nothing, BACKGROUND, found.labels), found.confidence, found.names)


def segment(
    picture: str | None, classes: str, background: str, score: float, pixel: float, system: str, weights: str
) -> tuple[np.ndarray, str]:
    """What the button does: the overlay with its legend, and the file of the label map.

    Raises:
        gr.Error: anything that the user can mend, with what to do.
    """
    if not picture:
        raise gr.Error("Upload a picture first.")
    if system not in SYSTEMS:
        raise gr.Error(f"Unknown system {system!r}, expected one of {list(SYSTEMS)}.")
    try:
        vocabulary = Vocabulary.from_text(classes or "", background or "")
        image = read_image(picture)
        predictor = load_predictor(SYSTEMS[system], weights.strip() or _trained(system))
        predictor.set_image(image)
        prediction = predict(predictor, vocabulary, score, pixel)
    except (ImportError, OSError, ValueError) as error:
        raise gr.Error(str(error)) from error
    file = Path(tempfile.mkdtemp(prefix="labels-")) / "labels.png"
    label_image(prediction.labels, len(vocabulary)).save(file)
    return overlay(image, prediction.labels, prediction.names), str(file)


def _trained(system: str) -> str:
    path = TRAINED.get(system, "")
    return path if path and Path(path).is_file() else ""


def offer_first(configs: list[str]) -> None:
    """Put configs, relative to where the program was started, before the quickstart's systems.

    Raises:
        FileNotFoundError: a file that does not exist.
    """
    for config in configs:
        if not Path(config).is_file():
            raise FileNotFoundError(f"--config-file: got {config!r}, which does not exist. The shipped ones are in configs/")
    known = {config: str(Path(config).resolve()) for config in configs} | SYSTEMS
    SYSTEMS.clear()
    SYSTEMS.update(known)


def build_page() -> gr.Blocks:
    """The page. Fonts are the browser's own, so that nothing is fetched."""
    with gr.Blocks(title="Segment anything you can name") as page:
        gr.Markdown("## Segment anything you can name\n`;` separates classes, `,` synonyms of one class.")
        with gr.Row():
            with gr.Column():
                picture = gr.Image(type="filepath", label="Picture", sources=["upload", "clipboard"], elem_id="picture")
                # The file as it was uploaded: our own reader turns and converts it, and says what is wrong with it.
                picture.preprocess = lambda payload: None if payload is None else payload.path
                classes = gr.Textbox(label="Classes", placeholder="dog, puppy; road; sky", elem_id="classes")
                background = gr.Textbox(
                    label="Background words", placeholder="wall; grass (CLIPer only, may be empty)", elem_id="background"
                )
                with gr.Row():
                    score = gr.Slider(0, 1, 0, step=0.01, label="Class threshold", info="classes below it are left out")
                    pixel = gr.Slider(0, 1, 0, step=0.01, label="Pixel threshold", info="pixels below it get no class")
                system = gr.Dropdown(list(SYSTEMS), value=next(iter(SYSTEMS)), label="System")
                weights = gr.Textbox(
                    label="Weights", placeholder="checkpoint file of the system; may be empty", elem_id="weights"
                )
                button = gr.Button("Segment", variant="primary", elem_id="segment")
            with gr.Column():
                picture_out = gr.Image(label="Result", format="png", interactive=False, elem_id="overlay")
                labels_out = gr.File(label="Label map (class index of each pixel, 255: none)", elem_id="labels")
        inputs = [picture, classes, background, score, pixel, system, weights]
        button.click(segment, inputs, [picture_out, labels_out])
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", action="append", default=[], metavar="FILE", help="offer this system too, first")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--share", action="store_true", help="publish the page through Gradio's tunnel")
    arguments = parser.parse_args()
    keep_freed_memory()
    offer_first(arguments.config_file)
    os.chdir(ROOT)
    fonts = ["system-ui", "sans-serif"]
    build_page().launch(
        server_name="127.0.0.1", server_port=arguments.port, share=arguments.share,
        theme=gr.themes.Default(font=fonts, font_mono=["monospace"]),
    )  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
