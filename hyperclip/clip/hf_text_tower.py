"""Hugging Face's text encoders in open_clip's HFTextEncoder: XLM-RoBERTa, BERT, NLLB, mT5.

Shapes: P prompts, S tokens, C embedding, D width.
"""

from collections.abc import Iterator
from typing import Any

from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, HFTextEncoder, MeanPooler
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from torch import Tensor, nn

from ..runtime.recompute import run
from .attention_weights import AttentionWeight, attention_weights

POOLERS = (MeanPooler, ClsPooler, ClsLastHiddenStatePooler)


class HuggingFaceTextTower:
    """See :class:`hyperclip.clip.text_tower.TextTower`. open_clip's own forward, without the
    columns that are padding in every prompt, which are masked there. Nothing is dropped at random.
    Recomputation is of the encoder as a whole.
    """

    def __init__(self, clip: Any, text: HFTextEncoder) -> None:
        self.text = text
        if not isinstance(text.pooler, POOLERS):
            raise ValueError(
                f"text tower: got Hugging Face's with {type(text.pooler).__name__}, expected one "
                f"of {[kind.__name__ for kind in POOLERS]}"
            )
        self.token_embedding: nn.Embedding = text.transformer.get_input_embeddings()
        lengths = (clip.context_length, _positions(text))
        self.context_length = min(filter(None, lengths), default=DEFAULT_CONTEXT_LENGTH)
        self.fixed: list[nn.Module] = [text]

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        return self.text.named_modules()

    @property
    def attentions(self) -> list[AttentionWeight]:
        return attention_weights(self.text.transformer)

    def set_recompute(self, enabled: bool) -> None:
        self.text.grad_checkpointing = enabled

    def entries(self, tokens: Tensor) -> int:
        return self._used(tokens).shape[1] * 4 * self.token_embedding.embedding_dim

    def encode(self, tokens: Tensor) -> Tensor:
        recompute = getattr(self.text, "grad_checkpointing", False)
        return run(self._forward, self._used(tokens), recompute=recompute)

    def _forward(self, tokens: Tensor) -> Tensor:
        encoded = self.text(tokens)
        return encoded[0] if isinstance(encoded, tuple) else encoded

    def _used(self, tokens: Tensor) -> Tensor:
        """The token ids (P, S) without the last columns, if these are padding in all prompts."""
        used = (tokens != self.text.config.pad_token_id).any(dim=0).nonzero()
        return tokens[:, : int(used.max()) + 1]


def _positions(text: HFTextEncoder) -> int:
    """How many tokens have a position embedding, 0 for an encoder without a limit."""
    for name, module in text.transformer.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first  # RoBERTa counts from behind the padding's index
    return 0
