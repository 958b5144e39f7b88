"""The maps of the Poincare ball against their formulas, and where they hold points back."""

from __future__ import annotations

import math

import pytest
import torch
from hyperclip import hyperbolic

CURVATURES = pytest.mark.parametrize("c", [1.0, 0.01, 2.5])


def along(norm, *direction):
    """A vector of this norm in this direction, in float64."""
    vector = torch.tensor(direction, dtype=torch.float64)
    return norm * vector / vector.norm()


@CURVATURES
def test_the_largest_norms_that_come_back(c):
    root = math.sqrt(c)
    assert hyperbolic.tangent_cap(c) == pytest.approx(math.atanh(0.999) / root, rel=1e-9)
    assert hyperbolic.tangent_cap(c, 1e-5) == pytest.approx(math.atanh(0.99999) / root, rel=1e-9)
    far = hyperbolic.logmap0(along(5 / root, 3, 4), c)
    torch.testing.assert_close(far, along(math.atanh(1 - 1e-5) / root, 3, 4))


@CURVATURES
def test_projection_moves_only_what_is_outside(c):
    limit = 0.999 / math.sqrt(c)
    inside, outside = along(0.998 / math.sqrt(c), 1, -2), along(1.5 / math.sqrt(c), 1, -2)
    points = hyperbolic.project(
        torch.stack([inside, outside, torch.zeros(2, dtype=torch.float64)]), c
    )
    torch.testing.assert_close(
        points, torch.stack([inside, along(limit, 1, -2), torch.zeros(2, dtype=torch.float64)])
    )
    torch.testing.assert_close(
        hyperbolic.project(outside, c, 0.25), along(0.75 / math.sqrt(c), 1, -2)
    )


@CURVATURES
def test_exponential_map(c):
    far = along(
        8.0 / math.sqrt(c), 2, 1
    )  # not held back: tanh(8) is closer to the boundary than 1e-5
    torch.testing.assert_close(
        hyperbolic.expmap0(far, c), along(math.tanh(8.0) / math.sqrt(c), 2, 1), rtol=1e-9, atol=0
    )
    for norm in (0.1, 1.0, 3.0):
        expected = along(math.tanh(math.sqrt(c) * norm) / math.sqrt(c), 2, 1)
        torch.testing.assert_close(hyperbolic.expmap0(along(norm, 2, 1), c), expected)
        torch.testing.assert_close(hyperbolic.logmap0(expected, c), along(norm, 2, 1))


@CURVATURES
def test_product_inside_the_ball(c):
    matrix = torch.tensor([[0.5, 1.0], [-2.0, 0.25], [1.0, 1.0]], dtype=torch.float64)
    x = along(0.6 / math.sqrt(c), 1, 2)
    image = matrix @ x
    size = math.tanh((image.norm() / x.norm()).item() * math.atanh(0.6))
    size = min(size, 0.999) / math.sqrt(c)
    torch.testing.assert_close(hyperbolic.mobius_matvec(matrix, x, c), image / image.norm() * size)
    assert not hyperbolic.mobius_matvec(matrix, torch.zeros(4, 2, dtype=torch.float64), c).any()


@CURVATURES
@pytest.mark.parametrize("beyond", [1.0, 1.2, 40.0])
def test_product_of_points_on_and_outside_the_boundary(c, beyond):
    """They count as points at 1 - 1e-5 of the radius: artanh of 1 and more is no number."""
    shrink = 0.1 * torch.eye(2, dtype=torch.float64)
    size = math.tanh(0.1 * math.atanh(1 - 1e-5)) / math.sqrt(c)
    torch.testing.assert_close(
        hyperbolic.mobius_matvec(shrink, along(beyond / math.sqrt(c), 5, 12), c), along(size, 5, 12)
    )


@CURVATURES
def test_the_product_is_held_back_further_than_its_input(c):
    """At 1 - 1e-3 of the radius, not at 1 - 1e-5."""
    result = hyperbolic.mobius_matvec(
        3 * torch.eye(2, dtype=torch.float64), along(0.99 / math.sqrt(c), 1, 1), c
    )
    torch.testing.assert_close(result, along(0.999 / math.sqrt(c), 1, 1))


@CURVATURES
def test_radius_and_distance(c):
    u, v = along(0.7, 1, 3), along(0.4, -2, 1)
    zero = torch.zeros(2, dtype=torch.float64)
    x, y = hyperbolic.expmap0(u, c), hyperbolic.expmap0(v, c)
    assert hyperbolic.radius(u).item() == pytest.approx(1.4)
    torch.testing.assert_close(hyperbolic.distance(zero, x, c), hyperbolic.radius(u))
    # arcosh form of the distance, scaled to curvature -c (Ganea et al., section 2.1)
    ratio = (
        2 * c * (x - y).square().sum() / ((1 - c * x.square().sum()) * (1 - c * y.square().sum()))
    )
    torch.testing.assert_close(hyperbolic.distance(x, y, c), torch.acosh(1 + ratio) / math.sqrt(c))


def test_types_and_shapes_stay():
    x = torch.rand(3, 5, 4) / 10
    for y in (
        hyperbolic.expmap0(x, 0.5),
        hyperbolic.logmap0(x, 0.5),
        hyperbolic.mobius_matvec(torch.eye(4), x, 0.5),
    ):
        assert (y.dtype, y.shape) == (torch.float32, x.shape)
    assert (
        hyperbolic.distance(x, x, 0.5).shape == (3, 5)
        and hyperbolic.distance(x, x, 0.5).dtype == torch.float32
    )
    tiny = torch.tensor([1e-7, 0.0])  # cancels in float32, does not in float64
    torch.testing.assert_close(
        hyperbolic.logmap0(hyperbolic.expmap0(tiny, 1.0), 1.0), tiny, rtol=1e-5, atol=0
    )


@CURVATURES
def test_float32_is_float64_rounded(c):
    """All is computed in float64, whatever the input is: artanh of a small float32 number
    cancels.
    """
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, 4, generator=generator) / 10 / c**0.5 for _ in range(2))
    m = torch.randn(4, 4, generator=generator)
    pairs = [(f(x, c), f(x.double(), c)) for f in (hyperbolic.expmap0, hyperbolic.logmap0)]
    pairs.append(
        (hyperbolic.mobius_matvec(m, x, c), hyperbolic.mobius_matvec(m.double(), x.double(), c))
    )
    pairs.append((hyperbolic.distance(x, y, c), hyperbolic.distance(x.double(), y.double(), c)))
    for single, double in pairs:
        assert torch.equal(single, double.float())


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan")])
def test_a_curvature_magnitude_is_positive(c):
    with pytest.raises(ValueError, match="curvature magnitude: got .*, expected a positive number"):
        hyperbolic.expmap0(torch.zeros(2), c)
