"""Many systems on many benchmarks in one process: each model is loaded once, each number is kept as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from ..adapters import merge
from ..data import DATASETS, DatasetSpec, find_dataset, load_records
from ..data.custom import register_files
from ..evaluation.literature import published_for
from ..evaluation.report import save_benchmark_tables
from ..files import write_atomically
from .checkpointing import StrictCheckpointer, require_weights
from .evaluation import Evaluation, evaluate_dataset
from .setup import flat_config
from .vocabularies import test_vocabulary

logger = logging.getLogger("hyperclip.engine")

NO_INFLUENCE = ("OUTPUT_DIR", "DATASETS.TEST", "DATASETS.TRAIN", "DATASETS.FILES", "DATALOADER.", "SOLVER.", "VERSION")
"""Keys that do not change what an evaluation finds."""


@dataclass(frozen=True)
class System:
    """A config with a name for the table."""

    name: str
    cfg: CfgNode


@dataclass(frozen=True)
class Benchmark:
    """A dataset that is ready to be evaluated.

    Attributes:
        spec: the dataset. records: what is evaluated. total: how many there are of them without a limit.
    """

    spec: DatasetSpec
    records: list[dict]
    total: int

    @property
    def complete(self) -> bool:
        """Whether all pictures of the official set are evaluated."""
        return len(self.records) == self.total and (not self.spec.images or self.total in self.spec.images)


def choose_datasets(names: Sequence[str]) -> list[DatasetSpec]:
    """Datasets by alias, by name, by YAML file (its splits but "train"); "all" are the papers' benchmarks.

    Raises:
        ValueError, FileNotFoundError: nothing of that name.
    """
    chosen: dict[str, DatasetSpec] = {}
    for name in names:
        if name == "all":
            found = [spec for spec in DATASETS.values() if spec.benchmark]
        elif name.endswith((".yaml", ".yml")):
            found = [spec for spec in register_files([name]) if not spec.name.endswith("_train")]
            if not found:
                raise ValueError(f"{name}: got no split but 'train', expected another one to evaluate on")
        else:
            found = [find_dataset(name)]
        chosen |= {spec.name: spec for spec in found}
    return list(chosen.values())


def make_plan(
    systems: Sequence[System], names: Sequence[str], limit: int = 0, partial: bool = False
) -> list[tuple[System, list[Benchmark]]]:
    """Which system is evaluated on what; "own" among the names stands for a config's DATASETS.TEST.

    Raises:
        ValueError, FileNotFoundError: see :func:`choose_datasets` and :func:`load_benchmarks`.
    """
    wanted = []
    for system in systems:
        own = list(system.cfg.DATASETS.TEST)
        wanted.append(choose_datasets([n for name in names for n in (own if name == "own" else [name])]))
    specs = {spec.name: spec for chosen in wanted for spec in chosen}
    ready = {b.spec.name: b for b in load_benchmarks(list(specs.values()), limit, partial)}
    return [(system, [ready[s.name] for s in specs if s.name in ready]) for system, specs in zip(systems, wanted, strict=True)]


def load_benchmarks(specs: Sequence[DatasetSpec], limit: int = 0, partial: bool = False) -> list[Benchmark]:
    """Find the files of datasets before anything is computed.

    Args:
        limit: evaluate this many pictures of each, from the first one on; 0 for all.
        partial: also take sets that are incomplete, and leave out those that are missing.
    Raises:
        ValueError: sets that are missing or incomplete, all of them at once, or none that is there.
    """
    benchmarks, faults = [], []
    for spec in specs:
        try:
            records = load_records(spec, partial)
        except (FileNotFoundError, ValueError) as error:
            faults.append(f"{spec.alias}: {error}")
            continue
        benchmark = Benchmark(spec, records[:limit] if limit else records, len(records))
        if spec.images and len(records) not in spec.images and not partial:
            faults.append(f"{spec.alias}: incomplete, {len(records)} of {spec.images[0]} pictures")
        benchmarks.append(benchmark)
    if faults and (not partial or not benchmarks):
        advice = "" if partial else "\nTo evaluate what is there, pass --allow-partial; tools/check_datasets.py says more"
        raise ValueError(f"{len(faults)} of {len(specs)} benchmarks are not ready:\n" + "\n".join(faults) + advice)
    for fault in faults:
        logger.warning("left out: %s", fault)
    return benchmarks


def run_suite(plan: Sequence[tuple[System, Sequence[Benchmark]]], output: Path) -> list[dict[str, Any]]:
    """Evaluate systems on benchmarks. Rows that OUTPUT has from the same config, weights and data are kept.

    Args:
        plan: each system with its benchmarks.
    Returns:
        a row for each pair, with "error" where it could not be evaluated; written as results.json, .csv and .md after each.
    """
    rows: list[dict[str, Any]] = []
    for system, benchmarks in plan:
        model: nn.Module | None = None
        for benchmark in benchmarks:
            path = output / "rows" / system.name / f"{benchmark.spec.alias}.json"
            mark = fingerprint(system.cfg, benchmark)
            row = read_row(path, mark)
            if row is None:
                model = model or load_model(system.cfg)
                row = evaluate_row(system, model, benchmark) | {"fingerprint": mark}
                if comm.is_main_process() and "error" not in row:
                    _write_json(path, row)
            else:
                logger.info("%s on %s: kept from %s", system.name, benchmark.spec.alias, path)
            rows.append(row)
            if comm.is_main_process():
                save_benchmark_tables(rows, output)
            comm.synchronize()
    return rows


def evaluate_row(system: System, model: nn.Module, benchmark: Benchmark) -> dict[str, Any]:
    """One row of the table; with several processes an error is raised, since the others would wait for ever."""
    spec = benchmark.spec
    row: dict[str, Any] = {"system": system.name, "benchmark": spec.alias, "dataset": spec.name}
    try:
        found = evaluate_dataset(system.cfg, model, spec.name, records=benchmark.records)
    except (ValueError, FileNotFoundError) as error:
        if comm.get_world_size() > 1:
            raise
        logger.exception("%s on %s", system.name, spec.alias)
        return row | {"error": str(error)}
    return row | describe_evaluation(system.cfg, benchmark, found)


def describe_evaluation(cfg: CfgNode, benchmark: Benchmark, found: Evaluation) -> dict[str, Any]:
    """Everything that says what a number is."""
    spec, vocabulary = benchmark.spec, found.vocabulary
    papers = published_for(cfg, spec.alias)
    scores = {key: None if math.isnan(value) else value for key, value in found.scores.items()}
    return {
        "protocol": found.protocol,
        "vocabulary": f"{vocabulary.name} {vocabulary.version}".strip(),
        "prompts": cfg.MODEL.PROMPT_ENSEMBLE_TYPE,
        "synonyms": cfg.MODEL.SYNONYMS,
        "images": len(benchmark.records),
        "official_images": spec.images[0] if spec.images else benchmark.total,
        "complete": benchmark.complete,
        "labels": found.labels,
        **{key: value for key, value in scores.items() if not key.startswith("IoU-") and key != "images"},
        "seconds_per_image": found.seconds,
        "peak_memory_mb": found.peak_memory,
        "published": [{"miou": p.miou[spec.alias], "backbone": p.backbone, "source": p.source} for p in papers],
        "differs": list(differences(cfg, benchmark, found)),
        "IoU": {key.removeprefix("IoU-"): value for key, value in scores.items() if key.startswith("IoU-")},
    }


def differences(cfg: CfgNode, benchmark: Benchmark, found: Evaluation) -> Iterator[str]:
    """Why a number is not to be compared with a published one as it stands."""
    if not benchmark.complete:
        yield "not the whole set"
    if benchmark.spec.note:
        yield benchmark.spec.note
    if cfg.TEST.VOCABULARY == "clean" or cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON or cfg.MODEL.SYNONYMS != "first":
        yield "other class names or synonyms than the released ones"
    if cfg.MODEL.META_ARCHITECTURE == "CLIPer" and found.protocol == "argmax":
        yield "every pixel gets a class; the paper leaves pixels below tuned thresholds out"
    papers = published_for(cfg, benchmark.spec.alias)
    if papers and all(p.backbone != cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED for p in papers):
        yield "another backbone than the paper's"
    if cfg.MODEL.META_ARCHITECTURE == "HyperCLIP" and found.protocol == "threshold":
        yield f"background below a score of {cfg.TEST.BACKGROUND_THRESHOLD}, which no paper reports for this model"


def load_model(cfg: CfgNode) -> nn.Module:
    """Build a config's model, load its weights and merge its adapters."""
    model = build_model(cfg)
    require_weights(cfg, model)
    StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    merge(model.eval())
    return model


def fingerprint(cfg: CfgNode, benchmark: Benchmark) -> str:
    """Changes when the config, a file or folder that it names, the vocabulary or the data do."""
    keys = {k: v for k, v in flat_config(yaml.safe_load(cfg.dump())) if not k.startswith(NO_INFLUENCE)}
    files = {str(v): _state(Path(v)) for v in keys.values() if isinstance(v, str) and v and Path(v).exists()}
    vocabulary = test_vocabulary(cfg, benchmark.spec.name)
    asked = [vocabulary.classes, vocabulary.negatives, vocabulary.version]
    data = [[r["image_id"], r["file_name"], r["sem_seg_file_name"], r["label_map"]] for r in benchmark.records]
    content = json.dumps([keys, files, asked, benchmark.spec.name, data], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def read_row(path: Path, mark: str) -> dict[str, Any] | None:
    """A row that was written before, if it has this fingerprint."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return row if row.get("fingerprint") == mark else None


def _state(path: Path) -> list[tuple[str, int, int]]:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, lambda p: p.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))
