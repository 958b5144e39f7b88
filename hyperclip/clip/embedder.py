"""Class embeddings from the text tower, cached under everything that they depend on.

Shapes: T classes, P prompts, S names or tokens, R different tokens, C embedding.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from ..runtime.memory import items_at_a_time
from ..vocabulary.templates import prompt_templates
from ..vocabulary.vocabulary import Vocabulary, asked_names, synonym_rule
from .text_cache_key import text_state
from .text_tower import Tokenizer, encode_text, text_tower, tokenize

SYNONYM_RULES = ("first", "mean", "max")

logger = logging.getLogger("hyperclip.vocabulary")


class TextEmbedder:
    """Unit embeddings of a vocabulary's classes.

    A class's embedding is the normalised mean of the normalised embeddings of its prompts: every
    template with the first synonym ("first", as released) or with every synonym ("mean"). With
    "max" every synonym has an embedding of its own, and a class scores what its best synonym
    scores: see :meth:`class_of`. Synonyms with the same tokens count once. Descriptions of a class
    are prompts of each of its embeddings; its own templates take the place of these.

    Without gradients results are cached under all that they depend on: the prompts, and the text
    tower's weights and precision (:mod:`hyperclip.clip.text_cache_key`).

    Args:
        templates: sentences with one ``{}``. capacity: vocabularies kept, those asked last.
        synonyms: "first", "mean" or "max". typed: the same for typed vocabularies, None for no
            difference; configs mean :func:`synonym_rule`'s.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        templates: tuple[str, ...],
        synonyms: str,
        capacity: int = 8,
        typed: str | None = None,
    ) -> None:
        for rule in (synonyms, typed or synonyms):
            if rule not in SYNONYM_RULES:
                raise ValueError(
                    f"MODEL.SYNONYMS: got {rule!r}, expected one of {list(SYNONYM_RULES)}"
                )
        self.synonyms, self.typed = synonyms, typed or synonyms
        self.tokenizer, self.templates, self.capacity = tokenizer, templates, capacity
        self._tokens: OrderedDict[tuple, tuple[Tensor, Tensor, Tensor]] = OrderedDict()
        self._embeddings: OrderedDict[tuple, Tensor] = OrderedDict()

    @classmethod
    def from_config(cls, cfg: CfgNode, tokenizer: Tokenizer) -> TextEmbedder:
        """The embedder with a config's templates and MODEL.SYNONYMS."""
        templates, setting = prompt_templates(cfg.MODEL.PROMPT_ENSEMBLE_TYPE), cfg.MODEL.SYNONYMS
        return cls(tokenizer, templates, setting, typed=synonym_rule(setting, typed=True))

    def rule(self, vocabulary: Vocabulary) -> str:
        """What the synonyms of this vocabulary do: "first", "mean" or "max"."""
        return self.typed if vocabulary.typed else self.synonyms

    def asked(self, vocabulary: Vocabulary) -> list[list[str]]:
        """The names of each class that are prompted."""
        return asked_names(vocabulary, self.rule(vocabulary))

    def prompts(self, vocabulary: Vocabulary) -> tuple[list[str], list[int]]:
        """All prompts of a vocabulary and the embedding that each belongs to."""
        prompts: list[str] = []
        owners: list[int] = []
        row, each_name = -1, self.rule(vocabulary) == "max"
        for k, names in enumerate(self.asked(vocabulary)):
            own = vocabulary.prompts_of(k)
            for i, name in enumerate(names):
                sentences = list(own.sentences(self.templates, name))
                if i == 0 or each_name:  # an embedding begins, to which the descriptions belong
                    row += 1
                    sentences += own.descriptions
                prompts += sentences
                owners += [row] * len(sentences)
        return prompts, owners

    def check(self, clip: nn.Module, vocabulary: Vocabulary) -> None:
        """ValueError for a name that does not fit into the text context, without the tower."""
        prompts, _ = self.prompts(vocabulary.with_background_prompts())
        # a token has a byte or more
        context = text_tower(clip).context_length
        long = [p for p in prompts if len(p.encode()) > context - 10]
        if long:
            tokenize(self.tokenizer, long, context)

    def class_of(self, vocabulary: Vocabulary) -> list[int] | None:
        """The class of each embedding, ascending; None where there is one for each class."""
        asked = self.asked(vocabulary)
        if self.rule(vocabulary) != "max" or all(len(names) == 1 for names in asked):
            return None
        classes = [k for k, names in enumerate(asked) for _ in names]
        return [*classes, len(asked)] if vocabulary.other else classes

    def __call__(
        self, clip: nn.Module, vocabulary: Vocabulary, only: Tensor | None = None
    ) -> Tensor:
        """Unit embeddings (T, C) of the classes, or (S, C) of their synonyms; with ``only`` (t,),
        ascending, of these classes alone.

        Raises:
            ValueError: a name that does not fit into the text context, two classes with the same
                tokens, or "max" in training with a class of two synonyms.
        """
        if vocabulary.whole is not None:
            chosen = self._rows_of(clip, vocabulary, vocabulary.whole)
            if vocabulary.other:
                return self._with_mean(chosen, vocabulary)
            return chosen if only is None else chosen[only]
        tokens, owners, used = self._tokenized(clip, vocabulary)
        rows = int(owners[-1]) + 1
        classes = len(vocabulary.classes)
        if rows > classes and (only is not None or torch.is_grad_enabled()):
            raise ValueError(
                f"MODEL.SYNONYMS 'max': vocabulary {vocabulary.name!r} has {rows} synonyms of "
                f"{classes} classes, which is for evaluation only. Train with 'first' or "
                "'mean'"
            )
        if torch.is_grad_enabled() and any(
            p.requires_grad for n, p in clip.named_parameters() if not n.startswith("visual.")
        ):
            if only is None:
                return self._embed(clip, tokens, owners, rows)
            wanted = torch.isin(owners, only)
            places = torch.searchsorted(only, owners[wanted])
            return self._embed(clip, tokens[wanted], places, len(only))
        # training may use what is kept, but no tensors that were made in inference mode
        with torch.inference_mode(False), torch.no_grad():
            key = (self._asked_key(clip, vocabulary), text_state(clip, used))
            found = _recall(self._embeddings, key)
            if found is None:
                found = self._embed(clip, tokens, owners, rows)
                _remember(self._embeddings, key, found, self.capacity)
        if vocabulary.other:
            return self._with_mean(found, vocabulary)
        return found if only is None else found[only]

    def _rows_of(self, clip: nn.Module, part: Vocabulary, whole: Vocabulary) -> Tensor:
        """The embeddings (S, C) of a part of a vocabulary, out of those of the whole."""
        embeddings, owners = self(clip, whole), self.class_of(whole)
        rows = list(part.places)
        if owners is not None:
            chosen = set(rows)
            rows = [row for row, owner in enumerate(owners) if owner in chosen]
        return embeddings[torch.tensor(rows, device=embeddings.device)]

    def _with_mean(self, embeddings: Tensor, vocabulary: Vocabulary) -> Tensor:
        """The embeddings (S, C) of the classes, and that of their mean behind them."""
        class_of = self.class_of(replace(vocabulary, other=False))
        owners = None if class_of is None else torch.tensor(class_of, device=embeddings.device)
        return torch.cat([embeddings, mean_class(embeddings, owners)])

    def _asked_key(self, clip: nn.Module, vocabulary: Vocabulary) -> tuple:
        """All that the tokens depend on."""
        classes, tower = vocabulary.classes, text_tower(clip)
        asked = (classes, vocabulary.prompts, self.rule(vocabulary), self.templates)
        device = str(tower.token_embedding.weight.device)
        return (*asked, self.tokenizer, tower.context_length, device)

    def _tokenized(self, clip: nn.Module, vocabulary: Vocabulary) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids (P, S), the embedding that each prompt belongs to (P,), all ids once (R,)."""
        key = self._asked_key(clip, vocabulary)
        if (known := _recall(self._tokens, key)) is not None:
            return known
        left_out = sum(len(synonyms) - 1 for synonyms in vocabulary.classes)
        if left_out and self.rule(vocabulary) == "first":
            logger.info(
                f"vocabulary {vocabulary.name!r}: first names only (MODEL.SYNONYMS first), "
                f"{left_out} synonyms are not asked"
            )
        prompts, owners = self.prompts(vocabulary)
        tower = text_tower(clip)
        device = tower.token_embedding.weight.device
        with torch.inference_mode(False):
            tokens = tokenize(self.tokenizer, prompts, tower.context_length).to(device)
            kept = (tokens, torch.tensor(owners, device=device), tokens.unique())
        _remember(self._tokens, key, kept, self.capacity)
        return kept

    def _embed(self, clip: nn.Module, tokens: Tensor, owners: Tensor, rows: int) -> Tensor:
        step = items_at_a_time(text_tower(clip).entries(tokens), tokens.device)
        parts = [tokens] if torch.is_grad_enabled() else tokens.split(step)
        embeddings = torch.cat([F.normalize(encode_text(clip, part), dim=-1) for part in parts])
        if len(owners) == rows:
            return embeddings
        total = embeddings.new_zeros(rows, embeddings.shape[1]).index_add(0, owners, embeddings)
        return F.normalize(total, dim=-1)


def mean_class(embeddings: Tensor, class_of: Tensor | None = None) -> Tensor:
    """The normalised mean (1, C) of the classes' embeddings (T, C). With several a class (S, C),
    ``class_of`` (S,) is the class of each, and every class has the same weight.
    """
    if class_of is not None:
        counts = class_of.bincount()[:, None]
        sums = embeddings.new_zeros(len(counts), embeddings.shape[1])
        embeddings = sums.index_add(0, class_of, embeddings) / counts
    return F.normalize(embeddings.mean(dim=0, keepdim=True), dim=-1)


def _recall(store: OrderedDict, key: tuple) -> Any:
    """What is kept under a key, which now is the one asked last; None if nothing is."""
    if key in store:
        store.move_to_end(key)
    return store.get(key)


def _remember(store: OrderedDict, key: tuple, value: Any, capacity: int) -> None:
    store[key] = value
    while len(store) > capacity:  # which may have been lowered
        store.popitem(last=False)
