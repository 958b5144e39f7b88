"""CLIP's own text towers: open_clip's text transformer over the tokens that matter.

Where attention is causal and the embedding is read at the end of text, tokens behind it are left
out, and tokens that all prompts begin with ("a photo of a") are computed once: the same result with
a tenth of the work. Shapes: P prompts, S tokens, C embedding, D width, N tokens that matter.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import CLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor, nn

from ..runtime.recompute import run
from .attention_weights import AttentionWeight, attention_weights
from .vit_tower import recomputes, residual_block


class ClipTextTower:
    """See :class:`hyperclip.clip.text_tower.TextTower`. The transformer is CLIP's, a part of the
    model itself, or a module of its own ("custom_text", as SigLIP's).

    A causal one that pools at the end of text is read by :func:`encode_packed`; all others, in
    which tokens behind the end count, by open_clip's own forward with the whole context.
    """

    def __init__(self, clip: Any, text: CLIP | TextTransformer) -> None:
        self.clip, self.text = clip, text
        own = text is clip
        self.pool: str = text.text_pool_type if own else text.pool_type
        self.end_id: int = text.text_eos_id if own else text.eos_id
        causal = text.attn_mask is not None and getattr(text, "cls_emb", None) is None
        usual = type(text.transformer.resblocks[0]) is ResidualAttentionBlock
        self.packed: bool = causal and usual and self.pool in ("argmax", "eos")
        if self.pool == "none":
            raise ValueError("text tower: got pooling 'none', which gives no embedding of a prompt")
        self.context_length: int = text.context_length
        self.token_embedding: nn.Embedding = text.token_embedding
        self.fixed: list[nn.Module] = []

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        for name, module in self.text.named_modules():
            if self.text is not self.clip or name.split(".")[0] != "visual":
                yield name, module

    @property
    def attentions(self) -> list[AttentionWeight]:
        return attention_weights(self.text.transformer)

    def set_recompute(self, enabled: bool) -> None:
        self.text.transformer.grad_checkpointing = enabled

    def ends(self, tokens: Tensor) -> Tensor:
        """Where the text of each prompt ends (P,), in token ids (P, S)."""
        if self.pool == "argmax":
            return tokens.argmax(dim=-1)
        return (tokens == self.end_id).int().argmax(dim=-1)

    def entries(self, tokens: Tensor) -> int:
        longest = int(self.ends(tokens).max()) + 1 if self.packed else tokens.shape[1]
        return longest * 4 * self.token_embedding.embedding_dim

    def encode(self, tokens: Tensor) -> Tensor:
        if self.packed:
            return encode_packed(self.text, tokens, self.ends(tokens))
        encoded = self.clip.encode_text(tokens)
        return encoded[0] if isinstance(encoded, tuple) else encoded

    @property
    def last_norm(self) -> nn.Module | None:
        """The last norm, whose output :meth:`embed_output` takes; None if that is of all tokens."""
        return self.text.ln_final if self.packed else None

    def embed_output(self, output: Tensor) -> Tensor:
        """Embeddings (P, C) of what the last norm gives, in float32."""
        return _project(self.text.text_projection, output.float())


def encode_packed(text: Any, tokens: Tensor, end: Tensor) -> Tensor:
    """Encode token ids (P, S), whose text ends at ``end`` (P,), by a causal transformer into
    embeddings (P, C), not normalised.
    """
    tokens = tokens[:, : int(end.max()) + 1]
    same = (tokens == tokens[0]).all(dim=0).long().cumprod(0).sum()
    shared = int(torch.minimum(same, end.min()))
    inside = torch.arange(shared, tokens.shape[1], device=end.device) <= end[:, None]
    kept = inside.flatten().nonzero()[:, 0]
    x = text.token_embedding(tokens)
    x = x + text.positional_embedding[: tokens.shape[1]].to(x.dtype)
    x = torch.cat([x[0, :shared], x[:, shared:].flatten(0, 1).index_select(0, kept)])
    attend = partial(
        attention, prompts=len(tokens), shared=shared, length=inside.shape[1], kept=kept
    )
    recompute = recomputes(text.transformer)
    for block in text.transformer.resblocks:
        x = run(residual_block, block, x, attend, recompute=recompute)
    x = text.ln_final(x[shared - 1 + inside.sum(dim=1).cumsum(0)])
    return _project(text.text_projection, x)


def _project(projection: Any, x: Tensor) -> Tensor:
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Module) else x @ projection.to(x.dtype)


def attention(
    attn: nn.MultiheadAttention, x: Tensor, prompts: int, shared: int, length: int, kept: Tensor
) -> Tensor:
    """Causal self-attention of ``attn`` over packed tokens x (N, D): ``shared`` ones, with which
    all P ``prompts`` begin, then each prompt's own, at most S, the ``length``; ``kept``
    (N - shared,) are the ascending positions of these in P S tokens.
    """
    qkv = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).unflatten(-1, (3, attn.num_heads, -1))
    own = qkv.new_zeros(prompts * length, *qkv.shape[1:]).index_copy(0, kept, qkv[shared:])
    q0, k0, v0 = qkv[None, :shared].permute(2, 0, 3, 1, 4)
    q, k, v = own.unflatten(0, (prompts, length)).permute(2, 0, 3, 1, 4)
    k = torch.cat([k0.expand(prompts, -1, -1, -1), k], dim=2)
    v = torch.cat([v0.expand(prompts, -1, -1, -1), v], dim=2)
    visible = torch.ones(length, shared + length, dtype=torch.bool, device=x.device).tril(shared)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    y = y.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, kept)
    if shared:
        first = F.scaled_dot_product_attention(q0, k0, v0, is_causal=True)
        y = torch.cat([first.transpose(1, 2).flatten(2)[0], y])
    return attn.out_proj(y)
