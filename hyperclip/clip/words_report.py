"""What a model makes of the names of a vocabulary, before any image: lengths, names that it cannot
tell apart, names out of context, and names to ask as negatives.

Shapes: T classes, M other names, C embedding.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..vocabulary import Vocabulary
from ..vocabulary.names import distinct, shared_names, tokens_of
from .embedder import TextEmbedder
from .text_tower import text_tower

SHOWN = 10
"""So many of the longest prompts are told."""

Pair = tuple[str, str, float]
"""Two names and the cosine of their embeddings."""


@dataclass(frozen=True)
class ReportOptions:
    """What counts as near and far; ValueError for values that mean nothing.

    Args:
        near: the cosine from which two names count as the same to the model.
        far: by how many standard deviations below the mean the cosine of a name with its nearest
            one is, from which it counts as out of context.
        negatives: how many names are suggested.
    """

    near: float = 0.95
    far: float = 2.0
    negatives: int = 10

    def __post_init__(self) -> None:
        if not -1 <= self.near <= 1:
            raise ValueError(f"--near: got {self.near}, expected a cosine, -1 to 1")
        if not 0 <= self.far < float("inf"):
            raise ValueError(f"--far: got {self.far}, expected 0 or more standard deviations")
        if self.negatives < 0:
            raise ValueError(f"--negatives: got {self.negatives}, expected 0 or more")


@dataclass(frozen=True)
class WordsReport:
    """What there is to know of a vocabulary's names; the lists are the most striking first."""

    vocabulary: str
    names: int
    context: int  # tokens that a prompt may have
    longest: list[tuple[str, int]]  # the longest prompts and their tokens
    same: list[tuple[str, str]]  # names with the same tokens
    near: list[Pair]
    far: list[Pair]  # names, their nearest ones
    negatives: list[Pair]  # names of another list, their nearest ones

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def make_report(
    clip: nn.Module,
    text: TextEmbedder,
    vocabulary: Vocabulary,
    others: Sequence[str],
    options: ReportOptions,
) -> WordsReport:
    """Look at a vocabulary with a model's text tower; ``others`` are names that may be suggested.

    Raises:
        ValueError: a prompt that does not fit into the text context.
    """
    text.check(clip, vocabulary)
    names = vocabulary.names
    groups = [*vocabulary.classes, *((w,) for w in (*vocabulary.negatives, *vocabulary.background))]
    same = sorted({(one, other) for _, one, _, other in shared_names(groups)})
    with torch.no_grad():
        embeddings = class_embeddings(text(clip, vocabulary), text.class_of(vocabulary))
        known = {tokens_of(name) for group in groups for name in group}
        free = [name for name in dict.fromkeys(others) if tokens_of(name) not in known]
        suggested: list[Pair] = []
        if free and options.negatives:
            asked = Vocabulary(tuple((name,) for name in distinct(free)))
            suggested = nearest_others(embeddings, names, text(clip, asked), asked.names)
    suggested = [pair for pair in suggested if pair[2] < options.near]
    return WordsReport(
        vocabulary.name,
        len(names),
        text_tower(clip).context_length,
        longest_prompts(clip, text, vocabulary),
        same,
        near_pairs(embeddings, names, options.near),
        far_names(embeddings, names, options.far),
        suggested[: options.negatives],
    )


def class_embeddings(embeddings: Tensor, class_of: Sequence[int] | None) -> Tensor:
    """Unit embeddings (T, C) of classes; the mean where a class has several."""
    if class_of is None:
        return embeddings
    owners = torch.tensor(class_of, device=embeddings.device)
    total = embeddings.new_zeros(int(owners[-1]) + 1, embeddings.shape[1])
    return F.normalize(total.index_add(0, owners, embeddings), dim=-1)


def longest_prompts(
    clip: nn.Module, text: TextEmbedder, vocabulary: Vocabulary
) -> list[tuple[str, int]]:
    """The longest prompts and their tokens, those around a prompt included."""
    prompts, _ = text.prompts(vocabulary)
    context = text_tower(clip).context_length
    padding = text.tokenizer([""], context_length=context)[0, -1]
    counts = (text.tokenizer(prompts, context_length=context) != padding).sum(dim=1).tolist()
    ordered = sorted(zip(prompts, counts, strict=True), key=lambda pair: -pair[1])
    return ordered[:SHOWN]


def near_pairs(embeddings: Tensor, names: Sequence[str], least: float) -> list[Pair]:
    """Pairs of names whose unit embeddings (T, C) have at least this cosine, the nearest first."""
    cosine = (embeddings @ embeddings.T).triu(diagonal=1)
    upper = torch.ones_like(cosine, dtype=torch.bool).triu(diagonal=1)
    pairs = ((cosine >= least) & upper).nonzero().tolist()
    found = [(names[i], names[k], float(cosine[i, k])) for i, k in pairs]
    return sorted(found, key=lambda pair: -pair[2])


def far_names(embeddings: Tensor, names: Sequence[str], deviations: float) -> list[Pair]:
    """Names that are so many standard deviations farther from their nearest one than names are on
    the mean, the farthest first; none of fewer than three.
    """
    if len(names) < 3:
        return []
    cosine = (embeddings @ embeddings.T).fill_diagonal_(-torch.inf)
    best, nearest = cosine.max(dim=1)
    limit = best.mean() - deviations * best.std()
    found = [
        (names[i], names[int(nearest[i])], float(best[i]))
        for i in (best < limit).nonzero()[:, 0].tolist()
    ]
    return sorted(found, key=lambda pair: pair[2])


def nearest_others(
    embeddings: Tensor, names: Sequence[str], others: Tensor, other_names: Sequence[str]
) -> list[Pair]:
    """Other names, (M, C), each with its nearest name, (T, C), the nearest first."""
    best, nearest = (others @ embeddings.T).max(dim=1)
    order = best.argsort(descending=True, stable=True).tolist()
    return [(other_names[i], names[int(nearest[i])], float(best[i])) for i in order]
