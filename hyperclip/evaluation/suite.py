"""Many systems on many benchmarks in one process: each model is loaded once, each row is kept."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from ..data import DATASETS, DatasetSpec, class_lists, dataset_file, find_dataset
from ..data.records import make_records, pair_files, require_no_faults
from ..load import check_system, load_model
from ..runtime.precision import Precision
from ..runtime.program import after_traceback
from .kept_rows import read_row, write_row
from .result_rows import Benchmark, describe_evaluation, fingerprint
from .results_files import write_class_table, write_results
from .running import evaluate_dataset, failing_together, per_image_file
from .saved_predictions import INDEX, predictions_folder

logger = logging.getLogger("hyperclip.evaluation")


@dataclass
class System:
    """A config with a name for the table."""

    name: str
    cfg: CfgNode
    failure: str = ""

    @cached_property
    def model(self) -> nn.Module:
        """Loaded when it is first asked for, and once; later calls fail as that did."""
        if not self.failure:
            try:
                with failing_together():
                    model = load_model(self.cfg)
                    Precision.of(self.cfg.TEST.PRECISION, model).convert(model)
                    return model
            except Exception as error:  # its words alone: itself, it would keep what was loaded
                self.failure = _describe(error)
        raise ValueError(self.failure)


def choose_datasets(names: Sequence[str]) -> list[DatasetSpec]:
    """Datasets by alias, by name, by YAML file (its splits but "train"); "all" are the papers'
    benchmarks. ValueError or FileNotFoundError if there is nothing of that name, or no name at all.
    """
    benchmarks = [spec for spec in DATASETS.values() if spec.benchmark]
    chosen: dict[str, DatasetSpec] = {}
    for name in filter(None, map(str.strip, names)):
        if name == "all":
            specs = benchmarks
        elif name.endswith((".yaml", ".yml")):
            registered = dataset_file.register_files([name])
            specs = [spec for spec in registered if not spec.name.endswith("_train")]
            if not specs:
                expected = "expected another one to evaluate on"
                raise ValueError(f"{name}: got no split but 'train', {expected}")
        else:
            specs = [find_dataset(name)]
        chosen |= {spec.name: spec for spec in specs}
    if not chosen:
        known = [spec.alias for spec in benchmarks]
        raise ValueError(f'benchmarks: got {list(names)}, expected names; "all" are {known}')
    return list(chosen.values())


def make_plan(
    systems: Sequence[System], names: Sequence[str], limit: int = 0, partial: bool = False
) -> list[tuple[System, list[Benchmark]]]:
    """Which system is evaluated on what; "own" among the names stands for a config's DATASETS.TEST.
    Raises what :func:`choose_datasets`, :func:`load_benchmarks` and :func:`test_vocabulary` raise.
    """
    wanted = []
    for system in systems:
        own = {"own": system.cfg.DATASETS.TEST}
        wanted.append(choose_datasets([n for name in names for n in own.get(name.strip(), [name])]))
        check_system(system.cfg)
        for spec in wanted[-1]:
            class_lists.test_vocabulary(system.cfg, spec.name)
    specs = {spec.name: spec for chosen in wanted for spec in chosen}
    ready = {b.spec.name: b for b in load_benchmarks(list(specs.values()), limit, partial)}
    return [
        (system, [ready[s.name] for s in specs if s.name in ready])
        for system, specs in zip(systems, wanted, strict=True)
    ]


def load_benchmarks(
    specs: Sequence[DatasetSpec], limit: int = 0, partial: bool = False
) -> list[Benchmark]:
    """Find the files of datasets before anything is computed; ValueError if sets are missing or
    incomplete, all of them at once, or none is there. The first ``limit`` images of each count, 0
    for all; ``partial`` also takes incomplete sets, and leaves out those that are missing.
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
        if spec.images and len(records) not in spec.images and not partial:
            faults.append(f"{spec.alias}: incomplete, {len(records)} of {spec.images[0]} images")
        if found.faults:
            count, first = len(found.faults), found.faults[0]
            logger.warning("%s: %d faults, the first: %s", spec.alias, count, first)
        chosen = records[:limit] if limit else records
        benchmarks.append(Benchmark(spec, chosen, len(records), len(found.faults)))
    if faults and (not partial or not benchmarks):
        lines = [f"{len(faults)} of {len(specs)} benchmarks are not ready:", *faults]
        more = "To evaluate what is there, pass --allow-partial; tools/check_datasets.py says more"
        raise ValueError("\n".join([*lines, *([] if partial else [more])]))
    for fault in faults:
        logger.warning("left out: %s", fault)
    return benchmarks


def run_suite(
    plan: Sequence[tuple[System, Sequence[Benchmark]]], output: Path
) -> list[dict[str, Any]]:
    """Evaluate systems on benchmarks, but for rows that OUTPUT has already of the same config,
    weights, data and framework; all rows are written as results.json, .csv and .md after each.

    Each row stands alone: what fails on any process is its "error", and the others go on.
    """
    rows: list[dict[str, Any]] = []
    for system, benchmarks in plan:
        for benchmark in benchmarks:
            rows.append(_row(system, benchmark, output))
            if comm.is_main_process():
                write_results(rows, output)
            comm.synchronize()
        vars(system).pop("model", None)  # makes room for the next one
    return rows


def _row(system: System, benchmark: Benchmark, output: Path) -> dict[str, Any]:
    """A row that was kept, or a new one, which is kept unless it failed."""
    alias, name, cfg = benchmark.spec.alias, benchmark.spec.name, system.cfg
    path = output / "rows" / system.name / f"{alias}.json"
    try:
        mark, row = _kept(system, benchmark, path)
        kept = row is not None
        if row is None:
            found = evaluate_dataset(cfg, system.model, name, records=benchmark.records)
            row = describe_evaluation(cfg, benchmark, found, system.name) | {"fingerprint": mark}
        else:
            logger.info("%s on %s: kept from %s", system.name, alias, path)
        with failing_together():
            if comm.is_main_process():
                if not kept:
                    write_row(path, row)
                write_class_table(row, path.with_name(f"{alias}_classes.csv"))
    except Exception as error:
        text = _describe(error)
        row = {"system": system.name, "benchmark": alias, "dataset": name, "error": text}
        trace = None if isinstance(error, OSError | ValueError) else error
        logger.error("%s on %s: %s", system.name, alias, text, exc_info=trace)
    if "error" in row and torch.cuda.is_available():
        torch.cuda.empty_cache()  # what did not fit is in nobody's way any more
    return row


def _kept(system: System, benchmark: Benchmark, path: Path) -> tuple[str, dict[str, Any] | None]:
    """The fingerprint, and the whole row that has it, as the main process finds it for all."""
    found: tuple[str, dict[str, Any] | None] = "", None
    with failing_together():
        if comm.is_main_process():
            mark = fingerprint(system.cfg, benchmark)
            per_image = per_image_file(system.cfg, benchmark.spec.name)
            saved = predictions_folder(system.cfg, benchmark.spec.name)
            needed = [per_image, saved / INDEX if saved else None]
            whole = all(path is None or path.is_file() for path in needed)
            found = mark, read_row(path, mark) if whole else None
    return comm.all_gather(found)[0]


def _describe(error: Exception) -> str:
    """What a row says of an error; of one that nobody expected, its kind as well."""
    text = after_traceback(str(error)) or type(error).__name__
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"
