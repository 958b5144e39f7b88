"""The text tower on 171 class names against open_clip's own pass over 77 tokens."""

from __future__ import annotations

from functools import partial

import torch
from hyperclip.clip.text_tower import encode_text, tokenize
from hyperclip.vocabulary import builtin

from reference import clip as literal
from speed.measuring import Row, Settings, compare
from speed.models import build_hyperclip


@torch.no_grad()
def text(settings: Settings) -> list[Row]:
    """One row. Adapters are evaluated by both alike, once a layer."""
    _, model = build_hyperclip(settings)
    prompts, _ = model.text.prompts(builtin("coco_stuff"))
    tokens = tokenize(model.text.tokenizer, prompts, model.clip.context_length).to(settings.device)
    obvious, ours = (partial(way, model.clip, tokens) for way in (literal.encode_text, encode_text))
    return compare("text", f"{len(prompts)} names", obvious, ours, settings)
