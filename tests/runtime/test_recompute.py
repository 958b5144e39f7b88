"""What is computed again in the backward pass is not kept, and changes no gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hyperclip.runtime.recompute import chain, run
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

CHEAP = {
    "gelu": F.gelu,
    "layer norm": nn.LayerNorm(8),
    "transposed": lambda x: x.transpose(0, 1).contiguous(),
}


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "autocast"])
def test_a_chain_keeps_its_input_alone(name, dtype):
    torch.manual_seed(0)
    cheap = CHEAP[name]
    linear, x = nn.Linear(8, 5), torch.randn(3, 4, 8)
    gradients, kept = [], []
    for chained in (False, True):
        start = x.clone().requires_grad_()
        inner = start * 2
        linear.zero_grad()

        def costly(y):
            kept.append(StorageWeakRef(y.untyped_storage()))
            return linear(y)

        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = chain(cheap, inner, costly) if chained else costly(cheap(inner))
        (out.float() ** 2).sum().backward(retain_graph=True)
        gradients.append([start.grad, linear.weight.grad.clone(), linear.bias.grad.clone()])
        if dtype == torch.float32:
            assert kept[-1].expired() == chained
    for plain, ours in zip(*gradients, strict=True):
        assert torch.equal(plain, ours)


def test_a_chain_within_a_recomputed_part_is_plain():
    calls = []

    def cheap(x):
        calls.append(1)
        return F.gelu(x)

    x = torch.randn(4, 8, requires_grad=True)
    run(lambda z: chain(cheap, z, nn.Linear(8, 2)), x, recompute=True).sum().backward()
    assert len(calls) == 2  # forward, and once more in the backward pass
    with torch.no_grad():
        assert torch.equal(chain(F.gelu, x, torch.exp), F.gelu(x).exp())
