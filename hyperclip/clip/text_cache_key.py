"""What the output of a text tower depends on besides the prompts, as a key for caches.

Version counters would be cheaper, but ``p.data.add_``, fused optimisers and inference mode change
weights without counting. So the weights' bits are summed as integers over rows and over columns,
which is exact in any order and takes about 1 % of the time of an image. Shapes: R rows.
"""

import hashlib

import torch
from torch import Tensor, nn

from .text_tower import text_tower

SETTING = (bool, int, float, str, tuple, type(None))
"""Types of attributes that say how a module computes, such as an adapter's curvature."""


def text_state(clip: nn.Module, tokens: Tensor) -> bytes:
    """A digest of weights (of the token embeddings, rows ``tokens`` (R,)), settings, precision."""
    tower = text_tower(clip)
    embedding = tower.token_embedding.weight
    device = embedding.device
    settings: list[object] = [_precision(device)]
    tensors: list[Tensor] = []
    for prefix, module in tower.modules():
        plain = [(key, value) for key, value in vars(module).items() if isinstance(value, SETTING)]
        settings.append((prefix, type(module).__qualname__, plain))
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        settings.append([(name, str(value.dtype), tuple(value.shape)) for name, value in own])
        for _, value in own:
            whole = value is not embedding
            tensors.append(value.detach() if whole else value.detach()[tokens])
    if device.type == "cuda":  # where hundreds of small sums take longer than a copy
        tensors = _joined(tensors)
    sums = torch.cat([part for tensor in tensors for part in bit_sums(tensor)])
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=32)
    digest.update(sums.cpu().numpy().tobytes())
    return digest.digest()


def _precision(device: torch.device) -> tuple:
    """Autocast, and how float32 matrices are multiplied."""
    kind = device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    backends = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    # PyTorch 2.9 and later
    products = [getattr(backend, "fp32_precision", None) for backend in backends]
    return str(device), autocast, torch.get_float32_matmul_precision(), products


def _joined(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors of equal width and type one below the other."""
    groups: dict[tuple[int, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        rows = tensor.reshape(-1, tensor.shape[-1] if tensor.ndim else 1)
        groups.setdefault((rows.shape[1], rows.dtype), []).append(rows)
    return [torch.cat(group) for group in groups.values()]


def bit_sums(tensor: Tensor) -> list[Tensor]:
    """A tensor's bits as integers, summed over rows and over columns; a vector's bits as such."""
    rows = tensor.flatten(1) if tensor.ndim > 1 else tensor.reshape(1, -1)
    size = rows.element_size() * rows.shape[1]
    words = rows.contiguous().view(torch.int64 if size % 8 == 0 else torch.uint8)
    if len(words) == 1:
        return [words[0].long()]
    return [words.sum(dim=1), words.sum(dim=0)]
