"""Inference in half precision, its weights converted once, against the same in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from cliper.affinity import FuseOptions
from cliper.refiner import DiffusionRefiner
from detectron2.modeling import build_model
from hyperclip.adapters import merge
from hyperclip.clip import TextEmbedder
from hyperclip.config.keys import load_config
from hyperclip.runtime.precision import Precision
from hyperclip.segmenter import Question, Segmenter
from hyperclip.vocabulary import builtin
from torch import Tensor

from speed.cliper import THRESHOLD, TINY, TRUE, build_diffusion
from speed.inference import LISTS
from speed.measuring import Row, Settings, compare
from speed.models import build_hyperclip


class Case(NamedTuple):
    """Something that is asked of a model."""

    name: str
    build: Callable[[Settings], Segmenter]
    ask: Callable[[Any], dict[str, Tensor]]


@torch.no_grad()
def precision(settings: Settings) -> list[Row]:
    """Rows for whole images of HyperCLIP, new names on an encoded one, and CLIPer with refinement;
    in bfloat16 unless ``settings`` say float16.
    """
    name = "float16" if settings.precision == torch.float16 else "bfloat16"
    plain, rows = replace(settings, precision=torch.float32), []
    for case in _cases(settings.smoke):
        title = f"{case.name}, {name}"
        if settings.only not in title:
            continue
        exact, fast = case.build(settings), case.build(settings)
        chosen = Precision.of(name, fast)
        chosen.convert(fast)

        def ours(case: Case = case, fast: Any = fast, chosen: Precision = chosen) -> Any:
            with chosen.computing():
                return case.ask(fast)

        def obvious(case: Case = case, exact: Any = exact) -> Any:
            return case.ask(exact)

        rows += compare("precision", title, obvious, ours, plain)
    return rows


def _cases(smoke: bool) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)

    def noise(size: tuple[int, int]) -> Tensor:
        return torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)

    for words, size in ({"voc20": (96, 96)} if smoke else LISTS).items():
        question = Question(builtin(words))
        title = f"{len(question.vocabulary)} classes, {size[0]} px, windows"
        yield Case(title, _hyperclip, _asking(noise(size), question))
    size = (96, 96) if smoke else (640, 640)
    yield Case("20 new names on an encoded image", _hyperclip, _asking_anew(noise(size)))
    question = Question(builtin("cliper_voc"))
    image = noise((64, 80) if smoke else (375, 500))
    title = f"CLIPer, {len(question.vocabulary)} classes, refined"
    yield Case(title, _cliper, _asking(image, question))


def _hyperclip(settings: Settings) -> Segmenter:
    _, model = build_hyperclip(settings, "TEST.SLIDING_WINDOW", "True")
    merge(model)
    return model


def _cliper(settings: Settings) -> Segmenter:
    config = "quickstart/cliper_fusion" if settings.smoke else "cliper/universal_vitb16"
    weights = [] if settings.smoke else ["MODEL.CLIP_WEIGHTS", "none"]
    keys = ["MODEL.DEVICE", str(settings.device), "MODEL.CLIPER.REFINER.NAME", "none"]
    torch.manual_seed(0)
    keys += ["MODEL.CLIPER.HALF", "False", *weights]
    model: Any = build_model(load_config(f"configs/{config}.yaml", keys)).eval()
    attention = build_diffusion(TINY if settings.smoke else TRUE).to(settings.device)
    model.refiner = DiffusionRefiner(attention, FuseOptions("SFSA", 1, THRESHOLD))
    return model


def _asking(image: Tensor, question: Question) -> Callable[[Any], dict[str, Tensor]]:
    def ask(model: Any) -> dict[str, Tensor]:
        return model([{"image": image, "question": question}])[0]

    return ask


def _asking_anew(image: Tensor) -> Callable[[Any], dict[str, Tensor]]:
    """Names that the model never saw, of an image that it has encoded."""
    question, encoded = Question(builtin("voc20")), {}

    def ask(model: Any) -> dict[str, Tensor]:
        if id(model) not in encoded:
            encoded[id(model)] = model.encode([image])[0]
        text = model.text
        model.text = TextEmbedder(text.tokenizer, text.templates, text.synonyms)
        size = (image.shape[1], image.shape[2])
        return model.segment(encoded[id(model)], question, size).as_dict()

    return ask
