"""In what precision numbers are multiplied, in training and in every inference.

A GPU may round the factors of a float32 product to TF32 (10 bits), and does so in convolutions
unless it is told not to. These are switches of the whole process, so they are set while our code
computes and put back afterwards. bfloat16 and float16 are autocast's: products in half the bits,
their sums, softmax, norms and cosines in float32.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import torch
from torch import nn

EXACT = "float32"
MIXED = ("bfloat16", "float16")
PRECISIONS = ("auto", EXACT, "tf32", *MIXED)
"""What TEST.PRECISION may be."""

logger = logging.getLogger(__name__)

Switches = tuple[str | None, bool | None, tuple[str, ...]]


@dataclass(frozen=True)
class Precision:
    """In what a system computes.

    Attributes:
        name: as results call it: "float32", "tf32", "bfloat16" or "float16". device: its kind,
            "cpu" or "cuda" say. mixed: whether :meth:`computing` has to switch autocast on.
    """

    name: str
    device: str
    mixed: bool = False

    @classmethod
    def of(cls, wanted: str, model: Any) -> Self:
        """That of TEST.PRECISION ``wanted`` for a system where it is; autocast that is on already,
        and a system that takes float16 on GPUs by itself, go before "float32" and "tf32".

        Raises:
            ValueError: none of ``PRECISIONS``, or float16 elsewhere than on a GPU.
        """
        kind = model.device.type
        chosen = chosen_precision(wanted, kind)
        if torch.is_autocast_enabled(kind):
            return cls(str(torch.get_autocast_dtype(kind)).removeprefix("torch."), kind)
        if chosen in MIXED:
            return cls(chosen, kind, mixed=True)
        if kind != "cuda":
            return cls(EXACT, kind)
        return cls("float16" if model.half_precision else chosen, kind)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Inside, this thread computes in it."""
        dtype = getattr(torch, self.name) if self.mixed else None
        mixed = torch.autocast(self.device, dtype) if self.mixed else contextlib.nullcontext()
        with float32_products(self.name == "tf32"), mixed:
            yield

    def convert(self, model: nn.Module) -> None:
        """Keep the weights of the linear and convolution layers of the model's large networks in
        the precision of their products, once and for all, instead of converting them in every call.
        """
        if not self.mixed:
            return
        for name, module in model.named_modules():
            if isinstance(module, CONVERTED) and not LARGE.isdisjoint(name.split(".")):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(getattr(torch, self.name))


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Numbers in half precision as float32, wider ones as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def exact_inference(device: torch.device, wanted: bool = True) -> AbstractContextManager[Any]:
    """Inside, products are in float32 whatever autocast says, if that is ``wanted``, but for
    training, which it would cost memory. Factors must not be in half precision.
    """
    if wanted and not torch.is_grad_enabled():
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def exactly(layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """A layer within :func:`exact_inference`; its weights must not be converted."""
    if torch.is_grad_enabled():
        return layer(values)
    with exact_inference(values.device):
        return layer(at_least_float32(values))


CONVERTED = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
"""Layers whose products autocast computes in half precision."""
LARGE = {"clip", "refiner", "proxy"}
"""What systems and stages call networks that are trained elsewhere."""


def chosen_precision(wanted: str, kind: str) -> str:
    """What a TEST.PRECISION means on a kind of device: itself, but for "auto", which is bfloat16 or
    float16 where there are units for it, else float32. Raises as :meth:`Precision.of`.
    """
    if wanted not in PRECISIONS:
        raise ValueError(f"TEST.PRECISION: got {wanted!r}, expected one of {list(PRECISIONS)}")
    if wanted == "float16" and kind != "cuda":
        raise ValueError(
            f"TEST.PRECISION: got 'float16' on {kind!r}, expected 'bfloat16' or 'float32' there: "
            "float16 needs a GPU"
        )
    fast = fast_precision(kind)
    if wanted == "auto":
        _say_once(logging.INFO, f"TEST.PRECISION auto: {fast} on this {kind}")
        return fast
    if wanted == "bfloat16" and fast != wanted:
        _say_once(
            logging.WARNING,
            f"TEST.PRECISION bfloat16: this {kind} has no units for it, so that it takes longer "
            "than float32; 'auto' takes what is fast",
        )
    return wanted


@cache
def _say_once(level: int, message: str) -> None:
    """Log what a model and its predictor both find out."""
    logger.log(level, "%s", message)


def fast_precision(kind: str) -> str:
    """The fastest precision of a kind of device: "bfloat16" where it computes in it, as CPUs with
    AMX or AVX512-BF16 and GPUs from Ampere on do; "float16" on GPUs before; else "float32".
    """
    if kind == "cuda":
        # before Ampere torch emulates bfloat16, which is slower than float32
        return MIXED[0 if torch.cuda.is_bf16_supported(including_emulation=False) else 1]
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    if kind == "cpu" and any(getattr(torch.cpu, name, bool)() for name in checks):
        return MIXED[0]
    return EXACT


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
