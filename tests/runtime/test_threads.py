"""Pieces of work on several threads do what one thread does, in the modes of the caller."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hyperclip.runtime.threads import in_pieces


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
    assert sum(sizes) == 11 and max(sizes) <= (most if most < threads else most // threads)


def test_pieces_run_at_the_same_time_with_one_thread_each(threads):
    together, seen = threading.Barrier(threads, timeout=60), set()

    def look(part):
        together.wait()
        seen.add((threading.get_ident(), torch.get_num_threads()))

    in_pieces(look, threads, torch.zeros(1, 4 * threads))
    assert {count for _, count in seen} == {1} and len({name for name, _ in seen}) == threads
    assert torch.get_num_threads() == threads
    later = ThreadPoolExecutor(1)
    assert later.submit(torch.get_num_threads).result() == threads  # of a thread that begins now


@pytest.mark.parametrize(("length", "most"), [(2, 100), (100, 2)])
def test_a_few_pieces_have_all_threads(length, most):
    seen = []
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    in_pieces(
        lambda part: seen.append((threading.get_ident(), torch.get_num_threads())),
        most,
        torch.zeros(1, length),
    )
    torch.set_num_threads(before)
    assert set(seen) == {(threading.get_ident(), 3)} and len(seen) == -(-length // most)


@pytest.mark.parametrize("inference", [True, False])
def test_the_modes_are_the_caller_s(threads, inference):
    seen = []

    def look(part):
        seen.append(
            (torch.is_inference_mode_enabled(), torch.is_grad_enabled(), (part.mT @ part).dtype)
        )
        part += 1

    with torch.inference_mode(inference), torch.autocast("cpu", torch.bfloat16):
        x = torch.zeros(2, 7)
        in_pieces(look, 2, x)
    assert set(seen) == {(inference, False, torch.bfloat16)}
    assert torch.equal(x, torch.ones(2, 7))


def test_what_a_piece_raises_is_raised_when_all_have_ended(threads):
    running = []

    def work(part):
        running.append(part)
        if part[0, 0] == 0:
            raise ValueError("no")
        time.sleep(0.2)
        running.pop()

    with pytest.raises(ValueError, match="no"):
        in_pieces(work, threads, torch.arange(3.0 * threads)[None])
    assert len(running) == 1  # the one that failed
    in_pieces(lambda part: part.add_(1), threads, torch.zeros(1, 6))


def test_a_forked_child_has_threads_of_its_own(threads):
    in_pieces(lambda part: part.add_(1), threads, torch.zeros(1, 9))
    child = os.fork()
    if child == 0:  # no torch operator that uses OpenMP, which does not survive a fork
        seen = set()
        in_pieces(lambda part: seen.add(threading.get_ident()), threads, torch.zeros(1, 9))
        os._exit(0 if seen else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_no_thread_locks_the_cache_of_autocast(threads):
    """A thread that compiles holds Python's lock and waits for the cache's; another that leaves
    autocast, the other way round.
    """
    seen = set()
    with torch.autocast("cpu", torch.bfloat16):
        in_pieces(
            lambda _: seen.add(
                (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled())
            ),
            threads,
            torch.zeros(1, 9),
        )
    assert seen == {(True, False)}
