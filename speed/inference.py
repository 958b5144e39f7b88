"""An image in windows, 20, 150 and 847 classes, against the released way: adapters in every pass,
all scores as maps.
"""

from __future__ import annotations

import torch
from hyperclip.adapters import merge
from hyperclip.clip import TextEmbedder
from hyperclip.meta_arch import HyperCLIP
from hyperclip.segmenter import Question
from hyperclip.vocabulary import builtin
from torch import Tensor

from reference import inference as literal
from speed.measuring import Row, Settings, compare
from speed.models import build_hyperclip

LISTS = {"voc20": (640, 640), "ade150": (640, 640), "ade847": (1024, 1024)}
"""Class lists, and the size of the image."""


@torch.no_grad()
def inference(settings: Settings) -> list[Row]:
    """A row for each class list; the text embeddings are there already for both."""
    obvious_model, model = _models(settings)
    generator, rows = torch.Generator().manual_seed(0), []
    for name, size in ({"voc20": (96, 96)} if settings.smoke else LISTS).items():
        question = Question(builtin(name))
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        embeddings = model.text(model.clip, question.vocabulary)

        def ours(image: Tensor = image, question: Question = question) -> dict[str, Tensor]:
            return model([{"image": image, "question": question}])[0]

        def obvious(image: Tensor = image, embeddings: Tensor = embeddings) -> Tensor:
            return literal.scores(obvious_model, image, embeddings)

        rows += compare(
            "infer",
            f"{len(embeddings)} classes, {size[0]} px, windows",
            obvious,
            ours,
            settings,
            count=True,
        )
    return rows


@torch.no_grad()
def new_vocabulary(settings: Settings) -> list[Row]:
    """One row: 20 new names asked of an image that is encoded already, against the whole
    prediction.
    """
    _, model = _models(settings)
    question = Question(builtin("voc20"))
    side = 96 if settings.smoke else 640
    image = torch.randint(
        0, 256, (3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    (features,) = model.encode([image])

    def asked_again() -> Tensor:
        text = model.text  # the new one knows no name yet
        model.text = TextEmbedder(text.tokenizer, text.templates, text.synonyms)
        return model.segment(features, question, (side, side)).confidence

    def whole() -> Tensor:
        text = model.text  # the new one knows no name yet
        model.text = TextEmbedder(text.tokenizer, text.templates, text.synonyms)
        return model.segment(model.encode([image])[0], question, (side, side)).confidence

    return compare("infer", "20 new names on an encoded image", whole, asked_again, settings)


def _models(settings: Settings) -> tuple[HyperCLIP, HyperCLIP]:
    """The same model twice, its adapters as they are trained and merged."""
    keys = ("TEST.SLIDING_WINDOW", "True")
    (_, trained), (_, merged) = build_hyperclip(settings, *keys), build_hyperclip(settings, *keys)
    merge(merged)
    return trained, merged
