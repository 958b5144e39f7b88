"""What vocabularies are asked as, one prompt at a time. Shapes: P prompt templates, T classes, C
embedding, h w grid.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def class_embedding(embed: Callable[[str], Tensor], prompts: Sequence[str]) -> Tensor:
    """The unit mean (C,) of the unit embeddings of a class's prompts."""
    total = torch.zeros(())
    for prompt in prompts:
        embedding = embed(prompt)
        total = total + embedding / embedding.norm()
    return total / total.norm()


def near_pairs(
    embeddings: Tensor, names: Sequence[str], least: float
) -> dict[tuple[str, str], float]:
    """The cosine of each two names whose embeddings (T, C) have at least this one."""
    found = {}
    for i in range(len(names)):
        for k in range(i + 1, len(names)):
            cosine = float(sum(embeddings[i] * embeddings[k]))
            if cosine >= least:
                found[names[i], names[k]] = cosine
    return found


def template_entropies(text: Tensor, images: Sequence[Tensor], scale: float) -> list[list[float]]:
    """Of each template (P, T, C) and class the mean entropy of the cells (C, h, w) that it gives to
    the class, infinity where there is none.
    """
    means = []
    for classes in text:
        entropies: list[list[float]] = [[] for _ in classes]
        for image in images:
            for cell in image.flatten(1).T:
                probability = (scale * classes @ cell).softmax(dim=0)
                entropy = -sum(float(p) * float(p.log()) for p in probability)
                entropies[int(probability.argmax())].append(entropy)
        means.append([sum(some) / len(some) if some else torch.inf for some in entropies])
    return means
