"""Class embeddings from the text tower, cached under everything that they depend on."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from open_clip import CLIP
from torch import Tensor, nn

from ..clip.text import Tokenizer, encode_text, tokenize
from ..memory import items_at_a_time
from .vocabulary import Vocabulary

SYNONYM_RULES = ("first", "mean", "max")


class TextEmbedder:
    """Unit embeddings of a vocabulary's classes.

    A class's embedding is the normalised mean of the normalised embeddings of its prompts: every template with the
    first synonym ("first", as released) or with every synonym ("mean"). With "max" every synonym has an embedding of its
    own, and a class scores what its best synonym scores: see :meth:`class_of`. Without gradients results are cached by
    (classes, version counter of every weight of the text tower), so that a training step drops what it made stale.

    Args:
        templates: sentences with one ``{}``.
        synonyms: "first", "mean" or "max".
        capacity: vocabularies kept.
    """

    def __init__(
        self, tokenizer: Tokenizer, templates: tuple[str, ...], synonyms: str = "first", capacity: int = 8
    ) -> None:
        if synonyms not in SYNONYM_RULES:
            raise ValueError(f"MODEL.SYNONYMS: got {synonyms!r}, expected one of {list(SYNONYM_RULES)}")
        self.tokenizer, self.templates, self.synonyms, self.capacity = tokenizer, templates, synonyms, capacity
        self._tokens: OrderedDict[tuple, tuple[Tensor, Tensor]] = OrderedDict()
        self._embeddings: OrderedDict[tuple, Tensor] = OrderedDict()

    def prompts(self, vocabulary: Vocabulary) -> tuple[list[str], list[int]]:
        """All prompts of a vocabulary and the embedding that each belongs to."""
        prompts, owners, rows = [], [], 0
        for synonyms in vocabulary.classes:
            for i, name in enumerate(synonyms[:1] if self.synonyms == "first" else synonyms):
                rows += i == 0 or self.synonyms == "max"
                prompts += [template.format(name) for template in self.templates]
                owners += [rows - 1] * len(self.templates)
        return prompts, owners

    def class_of(self, vocabulary: Vocabulary) -> list[int] | None:
        """The class of each embedding, ascending; None where there is one for each class."""
        if self.synonyms != "max" or all(len(synonyms) == 1 for synonyms in vocabulary.classes):
            return None
        return [k for k, synonyms in enumerate(vocabulary.classes) for _ in synonyms]

    def __call__(self, clip: CLIP, vocabulary: Vocabulary, only: Tensor | None = None) -> Tensor:
        """Unit embeddings (T, C) of the classes, or of their synonyms, with gradient where gradients are enabled.

        Args:
            only: indices (t,), ascending, of the classes that are wanted; None for all. Gives (t, C).
        Raises:
            ValueError: a name that does not fit into the text context, or "max" in training with a class of two synonyms.
        """
        tokens, owners = self._tokenized(clip, vocabulary)
        rows = int(owners[-1]) + 1
        if rows > len(vocabulary) and (only is not None or torch.is_grad_enabled()):
            raise ValueError(
                f"MODEL.SYNONYMS 'max': vocabulary {vocabulary.name!r} has {rows} synonyms of {len(vocabulary)} classes, which "
                "is for evaluation only. Train with 'first' or 'mean'"
            )
        if torch.is_grad_enabled() and any(p.requires_grad for p in _text_parameters(clip)):
            if only is None:
                return self._embed(clip, tokens, owners, rows)
            wanted = torch.isin(owners, only)
            return self._embed(clip, tokens[wanted], torch.searchsorted(only, owners[wanted]), len(only))
        version = tuple((p.data_ptr(), p._version) for p in _text_parameters(clip))
        key = (vocabulary.classes, version)
        if key not in self._embeddings:
            with torch.no_grad():
                _remember(self._embeddings, key, self._embed(clip, tokens, owners, rows), self.capacity)
        return self._embeddings[key] if only is None else self._embeddings[key][only]

    def _tokenized(self, clip: CLIP, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
        device = clip.positional_embedding.device
        key = (vocabulary.classes, str(device))
        if key not in self._tokens:
            prompts, owners = self.prompts(vocabulary)
            tokens = tokenize(self.tokenizer, prompts, clip.context_length)
            _remember(self._tokens, key, (tokens.to(device), torch.tensor(owners, device=device)), self.capacity)
        return self._tokens[key]

    def _embed(self, clip: CLIP, tokens: Tensor, owners: Tensor, rows: int) -> Tensor:
        longest = int(tokens.argmax(dim=-1).max()) + 1
        step = items_at_a_time(longest * 4 * clip.token_embedding.embedding_dim, tokens.device)
        parts = [tokens] if torch.is_grad_enabled() else tokens.split(step)
        embeddings = torch.cat([F.normalize(encode_text(clip, part), dim=-1) for part in parts])
        if len(owners) == rows:
            return embeddings
        total = embeddings.new_zeros(rows, embeddings.shape[1]).index_add(0, owners, embeddings)
        return F.normalize(total, dim=-1)


def _text_parameters(clip: CLIP) -> list[nn.Parameter]:
    return [p for name, p in clip.named_parameters() if not name.startswith("visual.")]


def _remember(store: OrderedDict, key: tuple, value: object, capacity: int) -> None:
    store[key] = value
    if len(store) > capacity:
        store.popitem(last=False)
