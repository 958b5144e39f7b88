#!/usr/bin/env python
"""Measure our way against the obvious one, both in this process: ratios of time and of peak memory.

    python tools/benchmark.py refine --json output/refine.json
    python tools/benchmark.py train --json output/train.json --repeat 1

train: one optimiser step of HyperCLIP ViT-B/16, 171 classes, batch 1, float32, against 77 tokens, hyperbolic maps, guidance
and padding written out for every class, and one-hot targets (tests/reference/training.py).
refine: CLIPer's refinement at 4096 tokens with 10 attention maps, against the released code's chain of products
(tests/reference/cliper.py), from given maps and from queries and keys.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402
from cliper.affinity import FuseOptions, GivenMaps, StreamedMaps  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from hyperclip.config import load_config  # noqa: E402
from hyperclip.engine.optimizer import build_optimizer  # noqa: E402
from hyperclip.engine.vocabularies import train_vocabulary  # noqa: E402
from hyperclip.files import write_atomically  # noqa: E402
from tabulate import tabulate  # noqa: E402
from torch import Tensor  # noqa: E402

from tests.reference import cliper as literal  # noqa: E402
from tests.reference import training  # noqa: E402

TOKENS, MAPS, HEAD_DIM, THRESHOLD = 4096, 10, 64, 0.2


class PeakMemory:
    """Peak memory of a block above what was held before it, in MB: of the GPU, or of the process, sampled each millisecond."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.megabytes = device, 0.0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return self
        self.before = self.peak = _resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.megabytes = (torch.cuda.max_memory_allocated() - self.before) / 1e6
            return
        self.done.set()
        self.thread.join()
        self.megabytes = (max(self.peak, _resident()) - self.before) / 1e6

    def _watch(self) -> None:
        while not self.done.wait(0.001):
            self.peak = max(self.peak, _resident())


def _resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(run: Callable[[], Tensor], device: torch.device, repeat: int) -> tuple[Tensor, float, float]:
    """Result, shortest time in seconds and largest peak memory in MB of some calls."""
    times, peaks = [], []
    for _ in range(repeat):
        with PeakMemory(device) as memory:
            start = time.perf_counter()
            result = run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        peaks.append(memory.megabytes)
    return result, min(times), max(peaks)


def compare(
    case: str, obvious: Callable[[], Tensor], ours: Callable[[], Tensor], device: torch.device, repeat: int
) -> dict[str, object]:
    """One row: both ways measured, their ratios, and the largest difference of what they give."""
    fast, fast_s, fast_mb = measure(ours, device, repeat + 1)
    slow, slow_s, slow_mb = measure(obvious, device, repeat)
    row = {
        "case": case,
        "time_ratio": round(slow_s / fast_s, 2),
        "memory_ratio": round(slow_mb / fast_mb, 1),
        "seconds": round(fast_s, 3),
        "literal_seconds": round(slow_s, 3),
        "megabytes": round(fast_mb, 1),
        "literal_megabytes": round(slow_mb, 1),
        "largest_difference": (fast - slow).abs().max().item(),
    }
    return row | ({"masks_identical": bool(torch.equal(fast.argmax(1), slow.argmax(1)))} if fast.dim() > 1 else {})


def train(device: torch.device, repeat: int) -> list[dict[str, object]]:
    """One row: a step from the same weights both times, so that the losses are to be equal."""
    overrides = ["MODEL.DEVICE", str(device), "MODEL.CLIP_WEIGHTS", "none"]
    cfg = load_config("configs/vitb_384_hyperbolic.yaml", overrides)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    model.train_vocabulary = train_vocabulary(cfg)
    image, target = training.random_picture(model)
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def begin() -> torch.optim.Optimizer:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.requires_grad:
                    p.copy_(start[name])
                    p.grad = None
        return build_optimizer(cfg, model)

    def ours() -> Tensor:
        optimizer = begin()
        loss = model([{"image": image, "sem_seg": target}])["loss_sem_seg"]
        loss.backward()
        optimizer.step()
        return loss.detach()

    def obvious() -> Tensor:
        return training.step(model, begin(), image, target)

    return [compare("ViT-B/16, 171 classes, batch 1", obvious, ours, device, repeat)]


@torch.no_grad()
def refine(device: torch.device, repeat: int) -> list[dict[str, object]]:
    """Rows for 21 and 150 classes, from given maps and from queries and keys."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    queries, keys = ([1.5 * draw(TOKENS, HEAD_DIM) for _ in range(MAPS)] for _ in range(2))
    scales, grid, options = [HEAD_DIM**-0.5] * MAPS, (64, 64), FuseOptions(threshold=THRESHOLD)
    streamed = StreamedMaps(queries, keys, scales, grid)

    def literal_from_projections(scores: Tensor) -> Tensor:
        return literal.refine(literal.attention_maps(queries, keys, scales), scores, THRESHOLD)

    rows = []
    for classes in (21, 150):
        scores = draw(TOKENS, classes).softmax(dim=1)
        ours, obvious = partial(streamed.apply, scores, options), partial(literal_from_projections, scores)
        rows.append(compare(f"from q and k, {classes} classes", obvious, ours, device, repeat))
        maps = literal.attention_maps(queries, keys, scales)
        ours, obvious = partial(GivenMaps(maps, grid).apply, scores, options), partial(literal.refine, maps, scores, THRESHOLD)
        rows.append(compare(f"from given maps, {classes} classes", obvious, ours, device, repeat))
        del maps, ours, obvious
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=("refine", "train"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=2, help="runs of each way; the fastest counts")
    arguments = parser.parse_args()
    run = {"refine": refine, "train": train}[arguments.benchmark]
    rows = run(torch.device(arguments.device), arguments.repeat)
    print(tabulate([list(row.values()) for row in rows], list(rows[0]), tablefmt="github"))
    if arguments.json:
        text = json.dumps(rows, indent=2) + "\n"
        write_atomically(arguments.json, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
