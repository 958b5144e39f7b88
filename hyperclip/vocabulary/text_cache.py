"""Class embeddings from the text tower, cached under everything that they depend on."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from open_clip import CLIP
from torch import Tensor, nn

from ..clip.text import Tokenizer, encode_text, tokenize
from .vocabulary import Vocabulary

SYNONYM_RULES = ("first", "mean")


class TextEmbedder:
    """Unit embeddings of a vocabulary's classes.

    A class's embedding is the normalised mean of the normalised embeddings of its prompts: every template with the
    first synonym ("first", as released) or with every synonym ("mean"). Without gradients results are cached by
    (classes, version counter of every weight of the text tower), so that a training step drops what it made stale.

    Args:
        templates: sentences with one ``{}``.
        synonyms: "first" or "mean".
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
        """All prompts of a vocabulary and the class of each."""
        prompts, owners = [], []
        for i, synonyms in enumerate(vocabulary.classes):
            for name in synonyms if self.synonyms == "mean" else synonyms[:1]:
                prompts += [template.format(name) for template in self.templates]
                owners += [i] * len(self.templates)
        return prompts, owners

    def __call__(self, clip: CLIP, vocabulary: Vocabulary, only: Tensor | None = None) -> Tensor:
        """Unit embeddings (T, C) of the classes, with gradient where gradients are enabled.

        Args:
            only: indices (t,), ascending, of the classes that are wanted; None for all. Gives (t, C).
        Raises:
            ValueError: a name that does not fit into the text context.
        """
        tokens, owners = self._tokenized(clip, vocabulary)
        if torch.is_grad_enabled() and any(p.requires_grad for p in _text_parameters(clip)):
            if only is None:
                return self._embed(clip, tokens, owners, len(vocabulary))
            wanted = torch.isin(owners, only)
            return self._embed(clip, tokens[wanted], torch.searchsorted(only, owners[wanted]), len(only))
        version = tuple((p.data_ptr(), p._version) for p in _text_parameters(clip))
        key = (vocabulary.classes, version)
        if key not in self._embeddings:
            with torch.no_grad():
                _remember(self._embeddings, key, self._embed(clip, tokens, owners, len(vocabulary)), self.capacity)
        return self._embeddings[key] if only is None else self._embeddings[key][only]

    def _tokenized(self, clip: CLIP, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
        device = clip.positional_embedding.device
        key = (vocabulary.classes, str(device))
        if key not in self._tokens:
            prompts, owners = self.prompts(vocabulary)
            tokens = tokenize(self.tokenizer, prompts, clip.context_length)
            _remember(self._tokens, key, (tokens.to(device), torch.tensor(owners, device=device)), self.capacity)
        return self._tokens[key]

    def _embed(self, clip: CLIP, tokens: Tensor, owners: Tensor, classes: int) -> Tensor:
        embeddings = F.normalize(encode_text(clip, tokens), dim=-1)
        if len(owners) == classes:
            return embeddings
        total = embeddings.new_zeros(classes, embeddings.shape[1]).index_add(0, owners, embeddings)
        return F.normalize(total, dim=-1)


def _text_parameters(clip: CLIP) -> list[nn.Parameter]:
    return [p for name, p in clip.named_parameters() if not name.startswith("visual.")]


def _remember(store: OrderedDict, key: tuple, value: object, capacity: int) -> None:
    store[key] = value
    if len(store) > capacity:
        store.popitem(last=False)
