"""The attention weights inside a tower, in whatever form its library keeps them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

SEPARATE = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"))
"""Names under which libraries keep three linear layers for q, k and v."""
OUTPUTS = ("out_proj", "c_proj", "o", "proj", "output.dense", "..output.dense")
"""Names of the linear layer behind attention; ".." stands for the module around it."""


@dataclass(frozen=True)
class AttentionWeight:
    """A parameter that holds some of the matrices "q", "k", "v", "out" of an attention."""

    module: nn.Module  # the owner
    name: str  # of the parameter in its owner
    layer: int  # which attention of its tower, from 0
    matrices: tuple[str, ...]  # from the first rows to the last, each with as many rows

    @property
    def weight(self) -> Tensor:
        """The weight as it is used, with adapters if there are any."""
        return getattr(self.module, self.name)


def attention_weights(root: nn.Module) -> list[AttentionWeight]:
    """All attention weights below a module, in its order: ``in_proj_weight`` of torch's, one
    ``qkv`` layer, or three layers, and the layer behind the attention.
    """
    modules = dict(root.named_modules())
    found: list[AttentionWeight] = []
    layer = 0
    for name, module in modules.items():
        inputs = list(_inputs(module))
        if not inputs:
            continue
        found += [AttentionWeight(owner, key, layer, held) for owner, key, held in inputs]
        output = _output(modules, name)
        if output is not None:
            found.append(AttentionWeight(output, "weight", layer, ("out",)))
        layer += 1
    return found


def _inputs(module: nn.Module) -> Iterator[tuple[nn.Module, str, tuple[str, ...]]]:
    """(owner, name, matrices) of what an attention projects its input with; nothing for others."""
    fused = dict(module.named_parameters(recurse=False)).get("in_proj_weight")
    if fused is not None or is_parametrized(module, "in_proj_weight"):
        yield module, "in_proj_weight", ("q", "k", "v")
    elif isinstance(getattr(module, "qkv", None), nn.Linear):
        yield module.qkv, "weight", ("q", "k", "v")  # type: ignore[misc]
    for names in SEPARATE:
        layers = [getattr(module, name, None) for name in names]
        if all(isinstance(layer, nn.Linear) for layer in layers):
            for layer, matrix in zip(layers, ("q", "k", "v"), strict=True):
                yield layer, "weight", (matrix,)  # type: ignore[misc]


def _output(modules: dict[str, nn.Module], name: str) -> nn.Module | None:
    parent = name.rpartition(".")[0]
    for relative in OUTPUTS:
        base = parent if relative.startswith("..") else name
        own = modules.get(".".join(filter(None, (base, relative.lstrip(".")))))
        if isinstance(own, nn.Linear):
            return own
    return None
