"""The text tower: open_clip's text transformer over prompts trimmed to the longest one.

Attention is causal and the embedding is read at the end-of-text token, so tokens behind it cannot matter:
leaving them out gives the same result with a sixth of the work. Shapes: P prompts, S tokens, C embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from open_clip import CLIP
from torch import Tensor, nn

from ..recompute import run
from .visual import recomputes, residual_block

Tokenizer = Callable[..., Tensor]


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str], context: int) -> Tensor:
    """Prompts to token ids (P, context).

    Raises:
        ValueError: a prompt longer than the context (it would be cut without a word), or no prompt at all.
    """
    if not prompts:
        raise ValueError("prompts: got none, expected at least one")
    ids = tokenizer(list(prompts), context_length=context + 1)
    too_long = [p for p, row in zip(prompts, ids, strict=True) if row[-1] != 0]
    if too_long:
        raise ValueError(
            f"prompt longer than the text context of {context} tokens: got {too_long[0]!r} "
            f"({len(too_long)} such), expected a shorter class name"
        )
    return ids[:, :context]


def encode_text(clip: CLIP, tokens: Tensor) -> Tensor:
    """Encode token ids (P, S) into embeddings (P, C), not normalised.

    With ``clip.transformer.grad_checkpointing``, in training, every block computes its activations again in the backward pass.

    Raises:
        ValueError: the tower is not causal with pooling at the end-of-text token, as OpenAI's CLIP is.
    """
    if clip.text_pool_type != "argmax" or clip.attn_mask is None:
        raise ValueError(
            f"text tower: got pooling {clip.text_pool_type!r}, expected a causal tower that pools at the end of text"
        )
    end = tokens.argmax(dim=-1)
    tokens = tokens[:, : int(end.max()) + 1]
    x = clip.token_embedding(tokens)
    x = x + clip.positional_embedding[: tokens.shape[1]].to(x.dtype)
    recompute = recomputes(clip.transformer)
    for block in clip.transformer.resblocks:
        x = run(residual_block, block, x, True, recompute=recompute)
    x = clip.ln_final(x[torch.arange(len(x), device=x.device), end])
    projection = clip.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Module) else x @ projection
