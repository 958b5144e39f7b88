"""Ask a server by many clients at a time: whether its answers are right, how fast, in what memory.

    hyperclip-serve --config-file configs/quickstart/hyperclip_trained.yaml
    python -m hyperclip.serving.load --config-file configs/quickstart/hyperclip_trained.yaml \\
        --clients 20 --requests 200

The images are drawn here, and the requests are the same ones each time: images in a random order,
each with every one of four vocabularies. With --config-file, that of the server, each label map is
compared with the predictor's own.
"""

from __future__ import annotations

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import io
import itertools
import os
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from ..predictor import Predictor
from ..runtime.program import program_parser, register_systems, run_program
from ..tinyscenes.drawing import render_scene
from .client import VARIABLE, Client, Refused

VOCABULARIES = (
    "red plain circle; blue striped star; green dotted cross",
    "yellow plain square; cyan striped star, star; magenta plain circle",
    "sky; road, street; car; person; tree",
    "red dotted circle; green plain square",
)
Pair = tuple[int, int]
"""An image and a vocabulary, by their numbers."""


@dataclass
class Report:
    """What came of the requests: seconds of each, its label map, and what was refused; seconds in
    all and of the server's cores, and its resident bytes after half of the requests and after all.
    """

    seconds: list[float] = field(default_factory=list)
    labels: list[tuple[Pair, np.ndarray]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    wall: float = 0.0
    cpu: float = 0.0
    resident: list[float] = field(default_factory=list)

    def differing(self, expected: dict[Pair, np.ndarray]) -> list[float]:
        """The share of pixels of each answer that are not those of the expected one."""
        return [float((labels != expected[pair]).mean()) for pair, labels in self.labels]


def pictures(count: int, side: int) -> list[bytes]:
    """Scenes of shapes, as PNG files of this side."""
    files = []
    for index in range(count):
        scene = Image.fromarray(render_scene("val_seen", index)[0])
        file = io.BytesIO()
        scene.resize((side, side), Image.Resampling.BICUBIC).save(file, format="PNG")
        files.append(file.getvalue())
    return files


def labels_in(file: bytes) -> np.ndarray:
    """The labels (H, W) of a PNG file, -1 for no class."""
    values = np.asarray(Image.open(io.BytesIO(file))).astype(np.int64)
    return np.where(values == 255, -1, values)


def expected_labels(predictor: Predictor, images: Sequence[bytes]) -> dict[Pair, np.ndarray]:
    """The predictor's own label map of each image and vocabulary."""
    expected = {}
    with TemporaryDirectory() as folder:
        for i, file in enumerate(images):
            path = Path(folder, f"{i}.png")
            path.write_bytes(file)
            encoded = predictor.encode(path)
            for k, words in enumerate(VOCABULARIES):
                expected[i, k] = predictor.segment(encoded, words).labels
    return expected


def ask(clients: Sequence[Client], images: Sequence[bytes], requests: int) -> Report:
    """Send requests, in two halves; all clients send at a time, each one request after the other.
    Clients send an image the first time, and its hash from then on.
    """
    report = Report()
    pairs = itertools.product(range(len(images)), range(len(VOCABULARIES)))
    chosen = list(itertools.islice(itertools.cycle(pairs), requests))
    random.Random(0).shuffle(chosen)
    halves = chosen[: requests // 2], chosen[requests // 2 :]

    def send(client: Client, own: Sequence[Pair]) -> None:
        for pair in own:
            started = time.perf_counter()
            try:
                file = client.labels(images[pair[0]], VOCABULARIES[pair[1]])
            except Refused as refused:
                report.refused.append(str(refused))
                continue
            report.seconds.append(time.perf_counter() - started)
            report.labels.append((pair, labels_in(file)))

    used = clients[0].metrics()["hyperclip_cpu_seconds"]
    with ThreadPoolExecutor(len(clients)) as pool:
        for half in halves:
            started = time.perf_counter()
            parts = [half[k :: len(clients)] for k in range(len(clients))]
            list(pool.map(send, clients, parts))
            report.wall += time.perf_counter() - started
            counted = clients[0].metrics()
            report.resident.append(counted["hyperclip_resident_bytes"])
    report.cpu = counted["hyperclip_cpu_seconds"] - used
    return report


def lines(report: Report) -> list[str]:
    """The report in words."""
    answered = len(report.seconds)
    middle, late = np.percentile(report.seconds, (50, 99)) if answered else (np.nan, np.nan)
    before, after = (size / 2**20 for size in report.resident)
    return [
        f"{answered} answers in {report.wall:.1f} s: {answered / report.wall:.1f} a second, "
        f"{len(report.refused)} refused",
        f"seconds of an answer: {middle:.2f} in the middle, {late:.2f} at the 99th percentile; "
        f"of a core of the server: {report.cpu / max(answered, 1):.3f}",
        f"memory of the server: {before:.0f} MB after half of them, {after:.0f} MB after all",
        *sorted(set(report.refused)),
    ]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program_parser(__doc__)
    add = parser.add_argument
    add("--server", default="http://127.0.0.1:8000", metavar="ADDRESS", help="%(default)s")
    add("--clients", type=int, default=20, help="default: %(default)s")
    add("--requests", type=int, default=200, help="default: %(default)s")
    add("--images", type=int, default=10, help="different images; default: %(default)s")
    add("--side", type=int, default=256, help="of an image in pixels; default: %(default)s")
    add("--config-file", metavar="FILE", help="compare with this model's predictor")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    arguments = parser.parse_args(argv)
    for name in ("clients", "requests", "images", "side"):
        if (value := getattr(arguments, name)) < 1:
            parser.error(f"--{name}: got {value}, expected a whole number from 1 on")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, compare and report; 1 if anything was refused or differs."""
    arguments = parse_arguments(argv)
    images = pictures(arguments.images, arguments.side)
    key = os.environ.get(VARIABLE, "")
    clients = [Client(arguments.server, key) for _ in range(arguments.clients)]
    clients[0].health()
    expected: dict[Pair, np.ndarray] = {}
    if arguments.config_file:
        register_systems()
        predictor = Predictor.from_config(arguments.config_file, arguments.opts)
        expected = expected_labels(predictor, images)
    report = ask(clients, images, arguments.requests)
    said, wrong = lines(report), False
    if expected:
        differing = report.differing(expected)
        equal, wrong = differing.count(0.0), max(differing, default=1.0) > 1e-3
        said.append(
            f"{equal} of {len(differing)} label maps equal the predictor's own; the others differ "
            f"in at most {max(differing, default=1.0):.3%} of the pixels"
        )
    sys.stdout.write("\n".join([f"{os.cpu_count()} cores", *said]) + "\n")
    return int(bool(report.refused) or wrong)


if __name__ == "__main__":
    run_program(main)
