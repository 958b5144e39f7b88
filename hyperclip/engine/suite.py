"""Many systems on many benchmarks in one process: each model is loaded once, each number is kept as soon as it is there."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from ..adapters import merge
from ..data import DATASETS, DatasetSpec, find_dataset
from ..data.custom import register_files
from ..data.records import make_records, pair_files, require_no_faults
from ..evaluation.report import save_benchmark_tables, save_class_table
from ..files import write_atomically
from .checkpointing import StrictCheckpointer, require_weights
from .evaluation import evaluate_dataset
from .rows import Benchmark, describe_evaluation, fingerprint, last_line
from .vocabularies import test_vocabulary

logger = logging.getLogger("hyperclip.engine")


@dataclass(frozen=True)
class System:
    """A config with a name for the table."""

    name: str
    cfg: CfgNode


def choose_datasets(names: Sequence[str]) -> list[DatasetSpec]:
    """Datasets by alias, by name, by YAML file (its splits but "train"); "all" are the papers' benchmarks.

    Raises:
        ValueError, FileNotFoundError: nothing of that name, or no name at all.
    """
    chosen: dict[str, DatasetSpec] = {}
    for name in filter(None, map(str.strip, names)):
        if name == "all":
            found = all_benchmarks()
        elif name.endswith((".yaml", ".yml")):
            found = [spec for spec in register_files([name]) if not spec.name.endswith("_train")]
            if not found:
                raise ValueError(f"{name}: got no split but 'train', expected another one to evaluate on")
        else:
            found = [find_dataset(name)]
        chosen |= {spec.name: spec for spec in found}
    if not chosen:
        raise ValueError(f"benchmarks: got {list(names)}, expected names; \"all\" are {[s.alias for s in all_benchmarks()]}")
    return list(chosen.values())


def all_benchmarks() -> list[DatasetSpec]:
    """The test sets of the papers."""
    return [spec for spec in DATASETS.values() if spec.benchmark]


def make_plan(
    systems: Sequence[System], names: Sequence[str], limit: int = 0, partial: bool = False
) -> list[tuple[System, list[Benchmark]]]:
    """Which system is evaluated on what; "own" among the names stands for a config's DATASETS.TEST.

    Raises:
        ValueError, FileNotFoundError: see :func:`choose_datasets` and :func:`load_benchmarks`; a class list that does not fit.
    """
    wanted = []
    for system in systems:
        own = list(system.cfg.DATASETS.TEST)
        wanted.append(choose_datasets([n for name in names for n in (own if name.strip() == "own" else [name])]))
        for spec in wanted[-1]:
            test_vocabulary(system.cfg, spec.name)
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
            found = pair_files(spec)
            if not (partial and found.pairs):
                require_no_faults(spec, found)
        except (OSError, ValueError) as error:
            faults.append(f"{spec.alias}: {error}")
            continue
        records = make_records(spec, found)
        benchmark = Benchmark(spec, records[:limit] if limit else records, len(records), len(found.faults))
        if spec.images and len(records) not in spec.images and not partial:
            faults.append(f"{spec.alias}: incomplete, {len(records)} of {spec.images[0]} pictures")
        if found.faults:
            logger.warning("%s: %d faults, the first: %s", spec.alias, len(found.faults), found.faults[0])
        benchmarks.append(benchmark)
    if faults and (not partial or not benchmarks):
        advice = "" if partial else "\nTo evaluate what is there, pass --allow-partial; tools/check_datasets.py says more"
        raise ValueError(f"{len(faults)} of {len(specs)} benchmarks are not ready:\n" + "\n".join(faults) + advice)
    for fault in faults:
        logger.warning("left out: %s", fault)
    return benchmarks


def run_suite(plan: Sequence[tuple[System, Sequence[Benchmark]]], output: Path) -> list[dict[str, Any]]:
    """Evaluate systems on benchmarks. Rows that OUTPUT has from the same config, weights and data are kept.

    With several processes an error is raised at once, since the others would wait for ever.

    Args:
        plan: each system with its benchmarks.
    Returns:
        a row for each pair, with "error" where it could not be evaluated; written as results.json, .csv and .md after each.
    """
    rows: list[dict[str, Any]] = []
    for system, benchmarks in plan:
        model: nn.Module | None = None
        failure: Exception | None = None
        for benchmark in benchmarks:
            spec = benchmark.spec
            path = output / "rows" / system.name / f"{spec.alias}.json"
            mark = fingerprint(system.cfg, benchmark)
            row = read_row(path, mark)
            if row is None:
                row = {"system": system.name, "benchmark": spec.alias, "dataset": spec.name}
                try:
                    if failure is not None:
                        raise failure
                    if model is None:
                        model = load_model(system.cfg)
                except (OSError, ValueError) as error:
                    failure, row["error"] = error, last_line(error)
                else:
                    row |= evaluate_row(system.cfg, model, benchmark)
                if "error" in row and comm.get_world_size() > 1:
                    raise ValueError(f"{system.name} on {spec.alias}: {row['error']}")
                if "error" in row:
                    logger.error("%s on %s: %s", system.name, spec.alias, row["error"])
                elif comm.is_main_process():
                    row["fingerprint"] = mark
                    _write_json(path, row)
                    save_class_table(row, path.with_name(f"{spec.alias}_classes.csv"))
            else:
                logger.info("%s on %s: kept from %s", system.name, spec.alias, path)
            rows.append(row)
            if comm.is_main_process():
                save_benchmark_tables(rows, output)
            comm.synchronize()
    return rows


def evaluate_row(cfg: CfgNode, model: nn.Module, benchmark: Benchmark) -> dict[str, Any]:
    """What a model reaches on a benchmark, or "error" if it could not be evaluated."""
    try:
        found = evaluate_dataset(cfg, model, benchmark.spec.name, records=benchmark.records)
    except (OSError, ValueError) as error:
        logger.debug("the error of %s", benchmark.spec.alias, exc_info=True)
        return {"error": last_line(error)}
    return describe_evaluation(cfg, benchmark, found)


def load_model(cfg: CfgNode) -> nn.Module:
    """Build a config's model, load its weights and merge its adapters."""
    model = build_model(cfg)
    require_weights(cfg, model)
    StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    merge(model.eval())
    return model


def read_row(path: Path, mark: str) -> dict[str, Any] | None:
    """A row that was written before, if it has this fingerprint."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return row if row.get("fingerprint") == mark else None


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, lambda p: p.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))
