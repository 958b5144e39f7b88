"""Text towers in a form that can be exported, and their tokenizers as plain files.

Shapes: P prompts, S tokens, C embedding.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.hf_model import MeanPooler
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor, nn

from ..clip.clip_text_tower import ClipTextTower, _project
from ..clip.hf_text_tower import HuggingFaceTextTower
from ..clip.text_tower import text_tower
from ..clip.vit_tower import merge_heads, project, residual_block
from ..export_parts import Part

TOKENIZER = "tokenizer.json"


def causal_attention(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Causal self-attention of ``attn`` over tokens x (P, S, D)."""
    q, k, v = project(attn, x)
    return merge_heads(attn, F.scaled_dot_product_attention(q, k, v, is_causal=True))


class CausalText(nn.Module):
    """Token ids (P, S) to unit embeddings (P, C), read at the end of text: what
    :func:`hyperclip.clip.clip_text_tower.encode_packed` gives, without packing.
    """

    def __init__(self, tower: ClipTextTower) -> None:
        super().__init__()
        text: Any = tower.text
        self.embedding, self.blocks = text.token_embedding, text.transformer.resblocks
        self.norm, self.projection = text.ln_final, text.text_projection
        self.positions = text.positional_embedding
        self.ends = tower.end_id if tower.pool == "eos" else None

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = residual_block(block, x, causal_attention)
        ids = tokens.int()
        end = ids.argmax(dim=-1) if self.ends is None else (ids == self.ends).int().argmax(dim=-1)
        x = self.norm(x[torch.arange(tokens.shape[0], device=tokens.device), end])
        return F.normalize(_project(self.projection, x), dim=-1)


class MeanText(nn.Module):
    """Token ids (P, S) to unit embeddings (P, C), the mean over what is no padding."""

    def __init__(self, tower: HuggingFaceTextTower) -> None:
        super().__init__()
        text: Any = tower.text
        self.transformer, self.projection = text.transformer, text.proj
        self.padding = text.config.pad_token_id

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != self.padding).long()
        hidden = self.transformer(input_ids=tokens, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=-1, keepdim=True)
        return F.normalize(self.projection(mean), dim=-1)


def text_part(clip: nn.Module) -> Part:
    """The text tower; ValueError for one that has no form that can be exported."""
    tower: Any = text_tower(clip)
    if isinstance(tower, ClipTextTower) and tower.packed:
        module: nn.Module = CausalText(tower)
    elif isinstance(tower, HuggingFaceTextTower) and isinstance(tower.text.pooler, MeanPooler):
        module = MeanText(tower)
    else:
        raise ValueError(
            f"text tower: got {type(tower.text).__name__}, which cannot be exported; expected "
            "CLIP's causal transformer, or Hugging Face's with a mean over its tokens"
        )
    tokens = torch.ones(3, 7, dtype=torch.int64, device=tower.token_embedding.weight.device)
    sizes = {0: ("prompts", 1), 1: ("tokens", 1)}
    limits = {"tokens": tower.context_length}
    return Part(module.eval(), {"tokens": tokens}, ("embeddings",), {"tokens": sizes}, limits)


def tokenizer_entry(tokenizer: Callable[..., Tensor], context: int) -> dict[str, Any]:
    """What the manifest says of a tokenizer; ValueError for one that has no plain file."""
    plain = tokenizer.func if isinstance(tokenizer, partial) else tokenizer
    if isinstance(plain, SimpleTokenizer) and plain.reduction_fn is None:
        return {"kind": "bpe", "file": TOKENIZER, "context": context, "padding": 0}
    if isinstance(plain, HFTokenizer) and not (plain.tokenizer_mode or plain.strip_sep_token):
        padding = plain.tokenizer.pad_token_id
        return {"kind": "tokenizers", "file": TOKENIZER, "context": context, "padding": padding}
    raise ValueError(
        f"tokenizer: got {type(plain).__name__} with options of its own, which cannot be exported; "
        "expected open_clip's SimpleTokenizer, or its HFTokenizer without a mode"
    )


def write_tokenizer(tokenizer: Callable[..., Tensor], folder: Path) -> None:
    """Write the tokenizer's file: merges and the two special ids of CLIP's byte-pair encoding, or
    what the package tokenizers reads.
    """
    plain: Any = tokenizer.func if isinstance(tokenizer, partial) else tokenizer
    file = folder / TOKENIZER
    if isinstance(plain, SimpleTokenizer):
        merges = [" ".join(pair) for pair in plain.bpe_ranks]
        content = {"start": plain.sot_token_id, "end": plain.eot_token_id, "merges": merges}
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return
    plain.tokenizer.backend_tokenizer.save(str(file))
