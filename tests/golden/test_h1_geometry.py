"""H1: the Poincare-ball maps and the adapters, fast and literal, against the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hyperclip import hyperbolic
from hyperclip.adapters import RadiusAdjustment

TOWERS = {"text": (512, 1.0), "vision": (768, 0.01)}


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("h1_geometry.npz")


def blocks_of(fake_state, name, width):
    return torch.from_numpy(fake_state.fill(f"h1.{name}.blocks", (width // 128, 128, 128), "eye"))


def adapter_with(blocks, curvature, literal):
    width = blocks.shape[0] * 128
    adapter = RadiusAdjustment(width, 128, curvature, literal=literal)
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(blocks)
    return adapter


def assert_rows_close(got, want, curvature, norms):
    """Relative to each row's norm, at the tolerance that the norm of the tangent vector calls
    for.
    """
    error = np.linalg.norm(got - want, axis=-1) / np.maximum(np.linalg.norm(want, axis=-1), 1e-30)
    scaled = np.sqrt(curvature) * norms
    saturation = np.arctanh(1 - 1e-3)
    # Ten float32 roundings of the recorded program, amplified by artanh's condition number towards
    # saturation.
    amplified = 10 * 2.0**-24 * np.sinh(np.minimum(2 * scaled, 20)) / np.maximum(2 * scaled, 1e-30)
    tolerance = np.where(
        (norms >= 0.1) & (scaled < 0.9 * saturation), np.maximum(2e-6, amplified), 5e-3
    )
    tolerance = np.where(scaled < 1e-5, 4e-2, tolerance)
    assert (error <= tolerance).all(), np.stack([norms, error, tolerance], 1)[error > tolerance]


@pytest.mark.parametrize("name", TOWERS)
def test_maps(arrays, fake_state, name):
    width, c = TOWERS[name]
    x, norms = torch.from_numpy(arrays[f"{name}_x"]), arrays[f"{name}_norms"]
    m = torch.block_diag(*blocks_of(fake_state, name, width))
    points = hyperbolic.expmap0(x, c)
    results = {
        "expmap0": points,
        "logmap0_of_expmap0": hyperbolic.logmap0(points, c),
        "mobius_matvec_of_expmap0": hyperbolic.mobius_matvec(m, points, c),
    }
    for key, got in results.items():
        assert_rows_close(got[:, ::4].numpy(), arrays[f"{name}_{key}"], c, norms)


@pytest.mark.parametrize("name", TOWERS)
def test_maps_of_given_points(arrays, fake_state, name):
    width, c = TOWERS[name]
    y = torch.from_numpy(arrays[f"{name}_ball_y"])
    m = torch.block_diag(*blocks_of(fake_state, name, width))
    results = {
        "logmap0": hyperbolic.logmap0(y, c),
        "project": hyperbolic.project(y, c),
        "mobius_matvec": hyperbolic.mobius_matvec(m, y, c),
    }
    with np.errstate(divide="ignore"):
        tangent_norms = np.arctanh(
            np.minimum(np.sqrt(c) * arrays[f"{name}_ball_norms"], 1.0)
        ) / np.sqrt(c)
    for key, got in results.items():
        assert_rows_close(got[:, ::4].numpy(), arrays[f"{name}_ball_{key}"], c, tangent_norms)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("literal", [False, True], ids=["fast", "literal"])
@pytest.mark.parametrize("name", TOWERS)
def test_adapter(arrays, fake_state, name, literal, gradients):
    width, c = TOWERS[name]
    x = torch.from_numpy(arrays[f"{name}_x"])
    adapter = adapter_with(blocks_of(fake_state, name, width), c, literal)
    with torch.set_grad_enabled(gradients):
        got = adapter(torch.cat([x, x, x])).detach().chunk(3)
    for part in got:
        assert_rows_close(
            part[:, ::4].numpy(), arrays[f"{name}_adapter"], c, arrays[f"{name}_norms"]
        )


@pytest.mark.parametrize("literal", [False, True], ids=["fast", "literal"])
@pytest.mark.parametrize("scale", ["1", "4", "0.05"])
@pytest.mark.parametrize("name", TOWERS)
def test_in_projection_and_gradient(arrays, fake_state, name, scale, literal):
    width, c = TOWERS[name]
    prefix = "visual." if name == "vision" else ""
    adapter = RadiusAdjustment(width, 128, c, literal=literal)
    block = f"{prefix}transformer.resblocks.0."
    with torch.no_grad():
        for q, p in adapter.named_parameters():
            p.copy_(
                torch.from_numpy(
                    fake_state.fill(f"{block}hyperbolic_attn.adapter_attn_{q}.weights", p.shape)
                )
            )
    weight = torch.from_numpy(
        fake_state.fill(f"{block}attn.in_proj_weight", (3 * width, width))
    ) * float(scale)
    out = adapter(weight)
    with torch.no_grad():
        torch.testing.assert_close(adapter(weight), out, rtol=1e-6, atol=1e-6)
    norms = out.detach()[::16].norm(dim=-1).numpy()
    assert_rows_close(
        out.detach()[::16, ::4].numpy(), arrays[f"{name}_in_proj_x{scale}_out"], c, norms
    )
    cotangent = torch.from_numpy(
        fake_state.fill(f"h1.{name}.cotangent", (3 * width, width), "matrix")
    )
    (out * cotangent).sum().backward()
    for q, p in adapter.named_parameters():
        want = arrays[f"{name}_in_proj_x{scale}_grad_{q}"]
        error = np.abs(p.grad[:, ::8, ::8].numpy() - want).max() / np.abs(want).max()
        assert error <= 2e-3, (q, error)
