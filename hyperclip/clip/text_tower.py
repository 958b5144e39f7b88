"""Text towers: what every family of open_clip's text encoders gives, and which reads which.

A tower is a light object around the modules of a model, made when it is needed. A family of one's
own is a class with the attributes of :class:`TextTower` and one line:

    TEXT_TOWERS[MyEncoder] = MyTower

Shapes: P prompts, S tokens, C embedding.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from open_clip import CLIP
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from .attention_weights import AttentionWeight
from .clip_text_tower import ClipTextTower
from .hf_text_tower import HuggingFaceTextTower

Tokenizer = Callable[..., Tensor]


class TextTower(Protocol):
    """A text encoder; what it is given are the token ids of :func:`tokenize`."""

    context_length: int
    """S, the most tokens of a prompt, those at its beginning and end included."""
    token_embedding: nn.Embedding
    """The first layer, whose device is the tower's."""

    def encode(self, tokens: Tensor) -> Tensor:
        """Encode token ids (P, S) into embeddings (P, C), not normalised."""

    def entries(self, tokens: Tensor) -> int:
        """Entries of the largest tensor that one of these prompts (P, S) needs on the way."""

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """(name, module) of all modules whose state decides the embeddings."""

    @property
    def attentions(self) -> list[AttentionWeight]:
        """Attention weights that the embeddings depend on."""

    @property
    def fixed(self) -> list[nn.Module]:
        """Modules that stay in evaluation mode in training, where they would draw at random."""

    def set_recompute(self, enabled: bool) -> None:
        """Whether in training activations are computed again in the backward pass."""


TEXT_TOWERS: dict[type[nn.Module], Callable[[Any, Any], TextTower]] = {
    CLIP: ClipTextTower,
    TextTransformer: ClipTextTower,
    HFTextEncoder: HuggingFaceTextTower,
}
"""What reads each type of text encoder, from (model, encoder), which are the same where the encoder
is spread over the model; ValueError, with the reason, from one that cannot."""


def text_tower(clip: nn.Module) -> TextTower:
    """The tower around the text encoder of an open_clip model; ValueError, with the reason, for one
    that cannot be read.
    """
    text = getattr(clip, "text", clip)
    for kind, tower in TEXT_TOWERS.items():
        if isinstance(text, kind):
            return tower(clip, text)
    raise ValueError(
        f"text tower: got {type(text).__name__}, expected one of "
        f"{[kind.__name__ for kind in TEXT_TOWERS]}"
    )


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str], context: int) -> Tensor:
    """Prompts to token ids (P, context); ValueError for none, or one that open_clip would cut."""
    if not prompts:
        raise ValueError("prompts: got none, expected at least one")
    ids = tokenizer(list(prompts), context_length=context + 1)
    padding = tokenizer([""], context_length=context + 1)[0, -1]
    cut = ids[:, -1] != padding
    # the end of a text that is one token too long may look like padding
    for i in ((ids[:, -2] != padding) & ~cut).nonzero()[:, 0].tolist():
        cut[i] = bool((tokenizer([prompts[i]], context_length=context)[0] != ids[i, :-1]).any())
    if cut.any():
        first = prompts[int(cut.int().argmax())]
        raise ValueError(
            f"prompt longer than the text context of {context} tokens: got {first!r} "
            f"({int(cut.sum())} such), expected a shorter class name"
        )
    return ids[:, :context]


def encode_text(clip: nn.Module, tokens: Tensor) -> Tensor:
    """:meth:`TextTower.encode` of a model; ValueError as :func:`text_tower`."""
    return text_tower(clip).encode(tokens)
