"""Prompt templates: how a class name becomes sentences for the text tower."""

from __future__ import annotations

from collections.abc import Sequence

import open_clip

SINGLE = ("A photo of a {} in the scene",)
SCENE = (
    "a clean origami {}.",
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(f"a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"This is a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"There is a {size} {{}} in the scene." for size in ("small", "medium", "large")),
)


def _filled(templates: Sequence) -> tuple[str, ...]:
    return tuple(template("{}") for template in templates)


PROMPT_TEMPLATES: dict[str, tuple[str, ...]] = {
    "single": SINGLE,
    "scene": SCENE,
    "imagenet_select": (*_filled(open_clip.SIMPLE_IMAGENET_TEMPLATES), *SINGLE),
    "imagenet": _filled(open_clip.OPENAI_IMAGENET_TEMPLATES),
}
"""Templates by the value of MODEL.PROMPT_ENSEMBLE_TYPE: 1, 15 (ViLD's
14 and the one of CLIP-ES), 8 and 80 sentences (the last two are OpenAI's)."""


def prompt_templates(kind: str) -> tuple[str, ...]:
    """Templates of one kind.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in PROMPT_TEMPLATES:
        raise ValueError(f"MODEL.PROMPT_ENSEMBLE_TYPE: got {kind!r}, expected one of {list(PROMPT_TEMPLATES)}")
    return PROMPT_TEMPLATES[kind]
