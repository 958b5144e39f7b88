"""Pieces of work on several threads do what one thread does, in the modes of the caller."""

from __future__ import annotations

import threading

import pytest
import torch
from hyperclip.threads import in_pieces


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_every_part_is_handled_once(threads, most):
    x, y = torch.zeros(2, 11, 3), torch.arange(22.0).view(2, 11)
    sizes = []

    def add(part, other):
        sizes.append(part.shape[1])
        part += other[..., None]

    in_pieces(add, most, x, y)
    assert torch.equal(x, y[..., None].expand_as(x))
    assert sum(sizes) == 11 and max(sizes) <= max(1, -(-most // threads))
    assert torch.get_num_threads() == threads


def test_a_piece_computes_with_one_thread(threads):
    seen = {}
    in_pieces(lambda part: seen.setdefault(threading.get_ident(), torch.get_num_threads()), 1, torch.zeros(1, 50))
    assert set(seen.values()) == {1}
    assert (threading.get_ident() in seen) == (threads == 1)


@pytest.mark.parametrize("inference", [True, False])
def test_the_modes_are_the_caller_s(threads, inference):
    seen = []

    def look(part):
        seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled(), (part.mT @ part).dtype))
        part += 1

    with torch.inference_mode(inference), torch.autocast("cpu", torch.bfloat16):
        x = torch.zeros(2, 7)
        in_pieces(look, 2, x)
    assert set(seen) == {(inference, False, torch.bfloat16)}
    assert torch.equal(x, torch.ones(2, 7))


def test_what_a_piece_raises_is_raised(threads):
    def fail(part):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_pieces(fail, 1, torch.zeros(1, 5))
