"""What a system says of itself to be exported: its modules without words, and what is around them.

A system that can be exported adds itself to :data:`EXPORTS`. Shapes: T classes, C embedding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .segmenter import Segmenter


@dataclass(frozen=True)
class Part:
    """A module of tensors alone that becomes a file.

    Args:
        module: takes the inputs by position, and gives a tensor, or a tuple of them.
        inputs: examples of its inputs, by name. outputs: names of what it gives.
        dynamic: by input, the axes of any size: what the size is called, and the factor that the
            axis is a multiple of it by. limits: of the sizes by name, where there are any.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, tuple[str, int]]] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SystemParts:
    """A system in two parts.

    Args:
        image: of normalised pixels alone. head: of what ``image`` gives and the text embeddings
            (T, C), by the name "text".
        inference: what is done around them, in plain values: the manifest's entry of this name.
        equals: what of the Python model it is, in words.
    """

    image: Part
    head: Part
    inference: Mapping[str, Any]
    equals: str


EXPORTS: dict[type[Segmenter], Callable[[Any], SystemParts]] = {}
"""How each system is taken apart; ValueError, with the reason, of one that is set so that it cannot
be.
"""


def parts_of(system: Segmenter) -> SystemParts:
    """The parts of a system; ValueError for one that cannot be exported."""
    for kind, take_apart in EXPORTS.items():
        if type(system) is kind:
            return take_apart(system)
    known = sorted(kind.__name__ for kind in EXPORTS)
    raise ValueError(
        f"export: got the system {type(system).__name__}, which cannot be exported; expected one "
        f"of {known}. Stages and views around a system are not in the file: leave them out"
    )
