"""In what precision float32 numbers are multiplied, in training and in every inference.

A GPU may round the factors of a float32 product to TF32 (10 bits), and does so in convolutions
unless it is told not to. These are switches of the whole process, so they are set while our code
computes and put back afterwards.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

EXACT = "float32"
PRECISIONS = (EXACT, "tf32")
"""What TEST.PRECISION may be."""

Switches = tuple[str | None, bool | None, tuple[str, ...]]


def inference_precision(wanted: str, model: Any) -> str:
    """In what a system computes, as results call it: "float32", "tf32" (on GPUs only), "float16" or
    "bfloat16". ValueError if ``wanted``, of TEST.PRECISION, is none of ``PRECISIONS``.
    """
    if wanted not in PRECISIONS:
        raise ValueError(f"TEST.PRECISION: got {wanted!r}, expected one of {list(PRECISIONS)}")
    kind = model.device.type
    if torch.is_autocast_enabled(kind):
        return str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
    if kind != "cuda":
        return EXACT
    return "float16" if model.half_precision else wanted


@contextlib.contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Inside, float32 numbers are multiplied in float32, or in TF32 where the GPU has it. Threads
    share the process's switches, which are put back: one that wants others waits for them.
    """
    me = threading.get_ident()
    kinds = ("tf32", "ieee", "ieee", "tf32", "tf32") if tf32 else ("ieee",) * 5
    wanted: Switches = ("high" if tf32 else "highest", tf32, kinds[: len(_kinds())])
    with _free:
        _free.wait_for(lambda: set(_users) <= {me} or _state["now"] == wanted)
        if not _users:
            _state["before"] = _read()
        outer = _state.get("now", wanted)
        _state["now"] = wanted
        _users.append(me)
        _write(wanted)
    try:
        yield
    finally:
        with _free:
            _users.remove(me)
            if not _users:
                _write(_state["before"])
            elif set(_users) == {me}:
                _state["now"] = outer
                _write(outer)
            _free.notify_all()


def _kinds() -> list[Any]:
    """Operations with a precision of their own; in releases of torch that have them, they count."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return []
    cuda, mkldnn, cudnn = backends.cuda, backends.mkldnn, backends.cudnn
    return [cuda.matmul, mkldnn.matmul, mkldnn.conv, cudnn.conv, cudnn.rnn]


def _read() -> Switches:
    """The process's switches; None for an old one that the new ones contradict: torch raises."""
    old: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            old.append(read())
        except RuntimeError:
            old.append(None)
    return old[0], old[1], tuple(kind.fp32_precision for kind in _kinds())


def _write(switches: Switches) -> None:
    matmul, cudnn, kinds = switches
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if cudnn is not None:
        torch.backends.cudnn.allow_tf32 = cudnn
    for kind, value in zip(_kinds(), kinds, strict=True):
        kind.fp32_precision = value


_free = threading.Condition()
_users: list[int] = []
"""Threads that are inside, as often as they are."""
_state: dict[str, Switches] = {}
"""The switches that were found outside, "before", and those that are wanted inside, "now"."""
