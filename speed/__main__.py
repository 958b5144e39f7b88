"""Measure our way against the obvious one, both in this process and in turn: ratios of time and of
peak memory.

    python -m speed refine --json output/refine.json
    python -m speed text adapters infer --repeat 3 --csv speed/results/cpu.csv
    python -m speed train --compare speed/results/cpu.csv

text: the text tower on 171 names, against open_clip's pass over 77 tokens. adapters: 72 adjusted
matrices, against the hyperbolic maps. head: image tower, head, decoder and labels on their own, and
10,000 classes pruned against all of them in full. infer: images in windows with 20, 150, 847
classes, against these maps in every pass, padding and guidance written out and whole score maps,
and 20 new names on an encoded image, against the whole prediction. train: one optimiser step of
ViT-B/16 with 171 classes, against 77 tokens, hyperbolic maps, guidance and padding written out for
every class, and one-hot targets. refine: CLIPer's refinement at 4096 tokens with 10 attention maps,
against the released code's chain of products. cliper: an image at 336 pixels, refined by a
diffusion model of Stable Diffusion 2.1's shape, against the same chain and the whole UNet; the
networks' passes alone are the floor. evaluate: images from files, against whole score maps; the
networks alone are the floor. precision: images and new names in bfloat16 (or --precision
float16), against float32. export: images by exported files in onnxruntime and torch.export, against
the Python model. guided: the guided filter fitted in a smaller image, against the whole one. The
obvious ways of the others are in reference/.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import cliper  # noqa: F401  (registers CLIPer and its keys)
import torch
from hyperclip.runtime.files import write_atomically
from hyperclip.runtime.memory import keep_freed_memory
from hyperclip.runtime.precision import float32_products
from tabulate import tabulate

from speed.adapters import adapter_maps
from speed.cliper import pipeline
from speed.evaluation import evaluate
from speed.exported import exported
from speed.guided import guided
from speed.head import head
from speed.inference import inference, new_vocabulary
from speed.measuring import Row, Settings
from speed.precision import precision
from speed.refine import refine
from speed.text import text
from speed.training import train

SUITES: dict[str, tuple[Callable[[Settings], list[Row]], ...]] = {
    "text": (text,),
    "adapters": (adapter_maps,),
    "head": (head,),
    "infer": (inference, new_vocabulary),
    "train": (train,),
    "refine": (refine,),
    "cliper": (pipeline,),
    "evaluate": (evaluate,),
    "precision": (precision,),
    "export": (exported,),
    "guided": (guided,),
}
SLOWER = 1.15
"""A case has become worse when its time or memory ratio has fallen by this factor."""


def regressions(rows: list[Row], old: Path) -> list[str]:
    """A line for each case whose ratios are worse than in an earlier CSV file.

    Raises:
        FileNotFoundError: no such file.
    """
    with old.open(encoding="utf-8", newline="") as file:
        before = {(row["suite"], row["case"]): row for row in csv.DictReader(file)}
    return [
        f"{row['suite']}, {row['case']}: {key} {before[row['suite'], row['case']][key]} -> "
        f"{row[key]}"
        for row in rows
        for key in ("time_ratio", "memory_ratio")
        if (row["suite"], row["case"]) in before
        and row[key] * SLOWER < float(before[row["suite"], row["case"]][key])
    ]


def write_csv(rows: list[Row], path: Path, settings: Settings) -> None:
    """Write rows with what they were measured on."""
    on_gpu = settings.device.type == "cuda"
    where = {
        "device": torch.cuda.get_device_name(settings.device) if on_gpu else "CPU",
        "precision": str(settings.precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], *where])
            writer.writeheader()
            writer.writerows(row | where for row in rows)

    write_atomically(path, write)


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "suites", nargs="+", choices=SUITES, metavar="SUITE", help=", ".join(SUITES)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="also write the rows, with what they were measured on",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD.csv",
        help="list cases that have become worse, and leave with 1",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of HyperCLIP under autocast; with one of 16 bits, CLIPer and what the refiner reads "
        "are in float16, as MODEL.CLIPER.HALF has them (default: %(default)s)",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=2,
        help="runs of each way; medians count (default: %(default)s)",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="the cases that contain this text"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FOLDER",
        help="also write which operations each case spends its time on",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="tiny models, to see that the suites run: no figures to believe",
    )
    arguments = parser.parse_args()
    keep_freed_memory()  # as all programs do
    settings = Settings(
        torch.device(arguments.device),
        arguments.repeat,
        arguments.smoke,
        arguments.only,
        getattr(torch, arguments.precision),
        arguments.profile,
    )
    chosen = [run for name in arguments.suites for run in SUITES[name]]
    with float32_products(tf32=False):
        rows = [row for run in chosen for row in run(settings)]
    if not rows:
        raise ValueError(
            f"--only: got {arguments.only!r}, which no case of {', '.join(arguments.suites)} "
            "contains"
        )
    print(tabulate([list(row.values()) for row in rows], list(rows[0]), tablefmt="github"))
    if arguments.json:
        text_of_rows = json.dumps(rows, indent=2) + "\n"
        write_atomically(
            arguments.json, lambda path: path.write_text(text_of_rows, encoding="utf-8")
        )
    if arguments.csv:
        write_csv(rows, arguments.csv, settings)
    worse = regressions(rows, arguments.compare) if arguments.compare else []
    print("\n".join(worse))
    return int(bool(worse))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
