"""Templates chosen for each class by unlabelled images: those whose predictions are the surest.

Every template alone classifies every cell of every image. A class's experts are the templates with
the lowest mean entropy over the cells that they give to this class, as FLOSS (Benigmim et al.,
2025) chooses them. FLOSS then runs one classifier for each class's experts and fuses their answers;
here each class is embedded by its own experts, which costs one pass as before. Sums are kept, no
image. Shapes: P prompt templates, T classes, C embedding, h w grid.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..vocabulary import Vocabulary
from ..vocabulary.prompts import Prompts
from .embedder import TextEmbedder
from .text_tower import Tokenizer


class TemplateEntropy:
    """Mean entropies of templates by the classes that they predict.

    Args:
        text: unit embeddings (P, T, C) of the classes in each template. scale: of the cosines.
    """

    def __init__(self, text: Tensor, scale: float) -> None:
        self.text, self.scale = text, scale
        self._sums = text.new_zeros(text.shape[:2], dtype=torch.float64)
        self._counts = torch.zeros_like(self._sums)

    def add(self, features: Tensor) -> None:
        """Count the cells of an image, unit embeddings (C, h, w)."""
        cells = features.flatten(1).to(self.text.dtype)
        for template, classes in enumerate(self.text):
            logs = (self.scale * classes @ cells).log_softmax(dim=0)
            entropy = -(logs.exp() * logs).sum(dim=0).double()
            predicted = logs.argmax(dim=0)
            self._sums[template].index_add_(0, predicted, entropy)
            self._counts[template] += predicted.bincount(minlength=len(classes))

    @property
    def means(self) -> Tensor:
        """Mean entropies (P, T), infinity where no cell was given to the class."""
        return torch.where(self._counts > 0, self._sums / self._counts, torch.inf)

    def experts(self, count: int) -> list[list[int]]:
        """Of each class the templates of the lowest entropies, at most so many, the lowest first;
        of equals the first, and none that no cell was given to.
        """
        means = self.means
        order = means.argsort(dim=0, stable=True)[:count]
        return [
            [p for p in order[:, k].tolist() if means[p, k] < torch.inf]
            for k in range(means.shape[1])
        ]


def embed_each(
    clip: nn.Module, tokenizer: Tokenizer, templates: Sequence[str], vocabulary: Vocabulary
) -> Tensor:
    """Unit embeddings (P, T, C) of the classes, the mean of all their synonyms if a person typed
    them, else of the first, in each template alone.
    """
    plain = replace(vocabulary, prompts=())
    with torch.no_grad():
        return torch.stack(
            [
                TextEmbedder(tokenizer, (template,), "first", typed="mean")(clip, plain)
                for template in templates
            ]
        )


def with_experts(
    vocabulary: Vocabulary, templates: Sequence[str], experts: Sequence[Sequence[int]]
) -> Vocabulary:
    """The vocabulary with these templates of its own for each class, by place; a class without any
    keeps the model's. Descriptions stay.
    """
    prompts = tuple(
        Prompts(
            vocabulary.prompts_of(k).descriptions,
            tuple(templates[p] for p in own) if own else vocabulary.prompts_of(k).templates,
        )
        for k, own in enumerate(experts)
    )
    return replace(vocabulary, prompts=prompts)
