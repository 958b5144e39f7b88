#!/usr/bin/env python
"""Make the README's table of the quickstart: train what is not trained yet, evaluate every row.

python tools/quickstart_table.py --output output/table     # three seeds: two or three hours
python tools/quickstart_table.py --output output/table --seeds 1 --limit 12

OUTPUT gets a training of each model and seed, what rows need besides (examples, banks, regions),
the rows of every evaluation (a second call evaluates only what has changed), table.md and
table.json. Rows of trained models are means over the seeds with their standard deviation.
"""

from hyperclip.runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog
from hyperclip.commands import register_systems
from hyperclip.config.keys import load_config
from hyperclip.data import dataset_root
from hyperclip.evaluation.results_files import write_json
from hyperclip.evaluation.suite import System, make_plan, run_suite
from hyperclip.runtime import files
from hyperclip.runtime.program import program_parser, run_program
from hyperclip.stages.proposers import save_label_regions
from tabulate import tabulate

CONFIGS = Path("configs/quickstart").resolve()
TRAINED = ("frozen_clip", "hyperclip")
EXAMPLES = (1, 2, 5)
SETS = {"tinyscenes_val_unseen": "unseen", "tinyscenes_val_seen": "seen"}
"""What is evaluated, and what the table calls it."""


class Row(NamedTuple):
    """A row of the table; in config and keys {seed} and {output} are filled."""

    title: str
    config: str  # of configs/quickstart, or a path
    keys: tuple[str, ...] = ()

    def has_seeds(self) -> bool:
        """Whether its weights are of a seed."""
        return any("{seed}" in text for text in (self.config, *self.keys))


def weights(model: str) -> tuple[str, str]:
    """The keys that load a model's training of a seed."""
    return "MODEL.WEIGHTS", f"{{output}}/{model}-{{seed}}/model_final.pth"


HYPERCLIP = weights("hyperclip")
SUPERPIXELS = (
    *("TEST.REGIONS.NAME", "superpixels", "TEST.REGIONS.SUPERPIXELS.NUMBER", "120"),
    *("TEST.REGIONS.SUPERPIXELS.MAX_SIZE", "0"),
)
PERFECT = ("TEST.REGIONS.NAME", "files", "TEST.REGIONS.FOLDER", "{output}/regions")
BANK = ("TEST.BANK.FILE", "{output}/bank-{seed}.safetensors")
ROWS = (
    Row("plain dense CLIP, no head", "dense_clip"),
    Row("CLIP's last layer", "clip_last_layer"),
    Row("CLIPer: early-layer fusion", "cliper_fusion"),
    Row("CLIPer: fusion and refinement", "cliper"),
    Row("cost-volume head on frozen CLIP", "frozen_clip", weights("frozen_clip")),
    Row("HyperCLIP", "hyperclip", HYPERCLIP),
    Row("HyperCLIP, image and mirror image", "hyperclip_views", HYPERCLIP),
    Row("HyperCLIP, refined", "hyperclip_refined", HYPERCLIP),
    Row("HyperCLIP, guided filter", "hyperclip", (*HYPERCLIP, "TEST.REFINER.NAME", "guided")),
    Row("HyperCLIP, regions: superpixels", "hyperclip", (*HYPERCLIP, *SUPERPIXELS)),
    Row("HyperCLIP, regions: of the labels", "hyperclip", (*HYPERCLIP, *PERFECT)),
    *(
        Row(
            f"HyperCLIP, {n} examples a class" if n > 1 else "HyperCLIP, 1 example a class",
            "hyperclip",
            (*HYPERCLIP, "TEST.EXAMPLES.FOLDER", f"{{output}}/examples-{n}"),
        )
        for n in EXAMPLES
    ),
    Row("HyperCLIP, memory bank", "hyperclip", (*HYPERCLIP, *BANK)),
    Row(
        "CLIPer's fusion on HyperCLIP's CLIP",
        "cliper_on_hyperclip",
        ("MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED", "{output}/clip-{seed}"),
    ),
    Row("HyperCLIP and CLIPer together", "{output}/both-{seed}.yaml"),
)


def call(*command: str) -> None:
    """Run one of the programs; CalledProcessError if it fails."""
    subprocess.run([sys.executable, *command], check=True)


def prepare(seeds: list[int], output: Path) -> None:
    """Train every model of ``TRAINED`` with every seed, and make what rows need besides, but for
    what is there already.
    """
    for number in EXAMPLES:
        if not (folder := output / f"examples-{number}").is_dir():
            call("datasets/prepare_tinyscenes.py", "--examples", str(number), str(folder))
    register_systems()
    load_config(CONFIGS / "hyperclip.yaml")  # registers the datasets
    for name in SETS:
        save_label_regions(DatasetCatalog.get(name), output / "regions")
    for seed in seeds:
        for model in TRAINED:
            folder = output / f"{model}-{seed}"
            if not (folder / "model_final.pth").is_file():
                config = str(CONFIGS / f"{model}.yaml")
                keys = ("SEED", str(seed), "OUTPUT_DIR", str(folder))
                call("tools/train_net.py", "--config-file", config, "--resume", *keys)
        _prepare_tuned(seed, output)


def _prepare_tuned(seed: int, output: Path) -> None:
    """The merged CLIP, the bank and the config of both systems of a seed's HyperCLIP."""
    config = ("--config-file", str(CONFIGS / "hyperclip.yaml"))
    trained = output / f"hyperclip-{seed}/model_final.pth"
    if not (clip := output / f"clip-{seed}").is_dir():
        keys = ("MODEL.WEIGHTS", str(trained))
        call("tools/export_clip.py", *config, "--output", str(clip), *keys)
    photos = str(dataset_root() / "tinyscenes/train/images")
    bank = ("--input", photos, "--output", str(output / f"bank-{seed}.safetensors"))
    call("tools/build_bank.py", *config, *bank, "--opts", "MODEL.WEIGHTS", str(trained))
    member = output / f"hyperclip-{seed}.yaml"
    base = CONFIGS / "hyperclip.yaml"
    files.write_text(member, f"_BASE_: {base}\nMODEL: {{WEIGHTS: {trained}}}\n")
    members = f"[{member}, {CONFIGS / 'cliper.yaml'}]"
    both = f"_BASE_: {CONFIGS / 'both.yaml'}\nMODEL: {{ENSEMBLE: {{CONFIGS: {members}}}}}\n"
    files.write_text(output / f"both-{seed}.yaml", both)


def evaluate(row: Row, seed: int, output: Path, limit: int) -> list[dict[str, Any]]:
    """The results of a row with the weights of a seed, for each set; ValueError if one fails."""
    name = f"{row.title}, seed {seed}" if row.has_seeds() else row.title
    config, *keys = (text.format(seed=seed, output=output) for text in (row.config, *row.keys))
    path = Path(config) if config.endswith(".yaml") else CONFIGS / f"{config}.yaml"
    folder = output / "rows" / name
    cfg = load_config(path, [*keys, "TEST.BOUNDARY_IOU", "True"])
    cfg.OUTPUT_DIR = str(folder)
    cfg.freeze()
    found = run_suite(make_plan([System(name, cfg)], list(SETS), limit, partial=limit > 0), folder)
    for result in found:
        if "error" in result:
            raise ValueError(f"{name} on {result['dataset']}: {result['error']}")
    return found


def cells(runs: list[list[dict[str, Any]]]) -> Iterator[str]:
    """mIoU and Boundary IoU of each set, then seconds per image, over the runs of a row."""
    seconds = []
    for results in zip(*runs, strict=True):
        for score in ("mIoU", "boundary_mIoU"):
            values = [result[score] for result in results]
            spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            yield f"{statistics.mean(values):.1f}{spread}"
        seconds += [result["seconds_per_image"] for result in results]
    yield f"{statistics.mean(seconds):.2f}"


def main() -> None:
    parser = program_parser(__doc__)
    parser.add_argument("--output", type=files.user_path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--limit", type=int, default=0, help="only the first images of each set")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    files.need_output_folder(output, "--output")
    prepare(arguments.seeds, output)
    head = ["model", *(f"{s}, {m}" for s in SETS.values() for m in ("mIoU", "boundary")), "s/image"]
    table: list[list[str]] = []
    kept: list[dict[str, Any]] = []
    for row in ROWS:
        seeds = arguments.seeds if row.has_seeds() else arguments.seeds[:1]
        runs = [evaluate(row, seed, output, arguments.limit) for seed in seeds]
        kept += [result | {"row": row.title} for run in runs for result in run]
        table.append([row.title, *cells(runs)])
        text = tabulate(table, head, "github", disable_numparse=True)
        files.write_text(output / "table.md", text + "\n")
        write_json(kept, output / "table.json")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    run_program(main)
