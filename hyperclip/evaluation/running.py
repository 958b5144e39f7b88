"""Evaluating a model on one registered dataset."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from detectron2.utils.logger import log_every_n_seconds
from torch import nn
from torch.utils.data import DataLoader

from ..data import SemSegMapper, batches
from ..data.detectron2_catalog import spec_of
from ..data.label_maps import LabelMap
from ..runtime import finite, memory
from ..runtime.files import portable_name
from ..runtime.precision import Precision
from ..segmenter import Description, Question, Segmenter, bare
from ..vocabulary import Vocabulary
from .asking import PRESENT, PresentNames, background_rule, dataset_question
from .evaluator import SemSegEvaluator
from .saved_predictions import PLACE, writer_for

LOOK_EVERY = 10
"""Batches between two looks of several processes at whether their evaluation is to end."""


class EvaluationStoppedError(Exception):
    """An evaluation was told to end before it was through."""


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found."""

    scores: dict[str, float]  # in percent, and "images"; see SemSegEvaluator
    vocabulary: Vocabulary  # what the model was asked
    protocol: str  # "argmax", "abstain", "threshold" or "fold"
    description: Description
    labels: str | None  # name of the label map that the truth was read with
    seconds: float  # wall time per image of all processes together, reading included
    peak_memory: float  # MB, of the GPU, or of the main process
    precision: str  # or "tf32", "float16", "bfloat16"
    ask: str  # TEST.ASK: names of the whole dataset, or those "present" in each image
    trained_on: tuple[str, ...]  # the datasets of its training, as far as they are known


def evaluate_dataset(
    cfg: CfgNode,
    model: nn.Module,
    name: str,
    *,
    records: list[dict] | None = None,
    evaluator: SemSegEvaluator | None = None,
    stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """Evaluate a model on a registered dataset, on all processes.

    Args:
        model: a :class:`Segmenter`, or what distributes its training.
        records, evaluator: instead of the whole set, and of the one that the config asks for.
        stop: says, to all processes the same and asked by all of them together, whether to end
            early: EvaluationStoppedError.
    Returns:
        the same on all processes, but for the scores: {} on others than the main one.
    Raises:
        FileNotFoundError, ValueError: data that is missing or broken, a class list that does not
            fit, NaN in a result. RuntimeError: for example too little memory. All processes raise
            what one of them met first.
    """
    system = bare(model)
    with contextlib.ExitStack() as stack:
        with failing_together():
            finite.require_finite_weights(system)
            question = dataset_question(cfg, name)
            present = PresentNames(cfg, name) if cfg.TEST.ASK == PRESENT else None
            records = DatasetCatalog.get(name) if records is None else records
            system.check_records(records)
            evaluator = evaluator or build_evaluator(cfg, name)
            if evaluator.saved is not None:
                stack.enter_context(evaluator.saved.writing())
                records = [{**record, PLACE: k} for k, record in enumerate(records)]
        with failing_together():
            start = time.perf_counter()
            memory.forget_peak(system.device)
            precision = Precision.of(cfg.TEST.PRECISION, system)
            with precision.computing():
                loader = build_test_loader(cfg, records)
                _run(loader, model, present or question, evaluator, stop)
        with failing_together():
            result = evaluator.evaluate()
        scores = dict(result["sem_seg"]) if result else {}
        seconds = (time.perf_counter() - start) / len(records)
        label_map = records[0].get("label_map")
        found = _evaluation(cfg, name, system, question, scores, label_map, seconds, precision.name)
        if evaluator.saved is not None:
            with failing_together():
                evaluator.saved.finish(_about(found, evaluator))
    return found


def _evaluation(
    cfg: CfgNode,
    name: str,
    system: Segmenter,
    question: Question,
    scores: dict[str, float],
    label_map: LabelMap | None,
    seconds: float,
    precision: str,
) -> Evaluation:
    """What was found, with what the system says of itself."""
    description = system.describe((name, spec_of(name).alias))
    rule, unruled = background_rule(name), "abstain" if description.abstains else "argmax"
    return Evaluation(
        scores,
        question.vocabulary,
        {"none": unruled, "threshold": question.background}.get(rule, rule),
        description,
        label_map.name if label_map else None,
        seconds,
        memory.peak_bytes(system.device) / 1e6,
        precision,
        cfg.TEST.ASK,
        system.trained_on,
    )


def _about(found: Evaluation, evaluator: SemSegEvaluator) -> dict[str, Any]:
    """What saved predictions say of themselves."""
    file = spec_of(evaluator.dataset_name).file
    scores = {key: found.scores.get(key, math.nan) for key in ("mIoU", "pACC", "images")}
    return {
        "dataset": evaluator.dataset_name,
        "dataset_file": portable_name(file) if file else None,
        "names": evaluator.names,
        "ignore": evaluator.ignore,
        "background": evaluator.background,
        "system": found.description.system,
        "backbone": found.description.backbone,
        "protocol": found.protocol,
        "ask": found.ask,
        "vocabulary": f"{found.vocabulary.name} {found.vocabulary.version}".strip(),
        "precision": found.precision,
        "trained_on": list(found.trained_on),
        "settings": dict(found.description.settings),
        "scores": {key: None if math.isnan(value) else value for key, value in scores.items()},
    }


def build_evaluator(cfg: CfgNode, name: str) -> SemSegEvaluator:
    """The evaluator of a dataset with what the config asks for."""
    return SemSegEvaluator(
        name, cfg.TEST.BOUNDARY_IOU, per_image_file(cfg, name), writer_for(cfg, name)
    )


def per_image_file(cfg: CfgNode, name: str) -> Path | None:
    """Where the scores of each image of a dataset go, None if the config does not ask for them."""
    if not cfg.TEST.PER_IMAGE_RESULTS:
        return None
    return Path(cfg.OUTPUT_DIR) / "per_image" / f"{name}.jsonl"


def build_test_loader(cfg: CfgNode, records: list[dict]) -> DataLoader:
    """Batches of records, each of them once over all processes."""
    return DataLoader(
        MapDataset(DatasetFromList(records, copy=False), SemSegMapper(cfg, is_train=False)),
        batch_size=cfg.TEST.IMS_PER_BATCH,
        sampler=InferenceSampler(len(records)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
        multiprocessing_context=batches.start_method(cfg.DATALOADER.NUM_WORKERS),
    )


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """What one process raises inside, all raise, so that none waits for ever for one that has left:
    a ``RuntimeError`` with its words, for an ``OSError`` or ``ValueError`` a ``ValueError``. Either
    all processes or none may wait for each other inside.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    kind = ValueError if isinstance(error, OSError | ValueError) else RuntimeError
    everywhere = comm.all_gather(error and (kind, f"{type(error).__name__}: {error}"))
    for rank, other in enumerate(everywhere):
        if other and error is None:
            raise other[0](f"process {rank} of {len(everywhere)}: {other[1]}")
    if error is not None:
        raise error


def _run(
    loader: DataLoader,
    model: nn.Module,
    asks: Question | PresentNames,
    evaluator: SemSegEvaluator,
    stop: Callable[[], bool] | None,
) -> None:
    processes, images = comm.get_world_size(), len(loader.dataset)  # type: ignore[arg-type]
    every = 1 if processes == 1 else LOOK_EVERY
    shared = -(-(images // processes) // (loader.batch_size or 1))  # batches that all have
    evaluator.reset()
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for i, batch in enumerate(loader):
                if stop is not None and i < shared and i % every == 0 and stop():
                    raise EvaluationStoppedError
                if isinstance(asks, Question):
                    asked = [{**record, "question": asks} for record in batch]
                    evaluator.process(batch, model(asked))
                else:
                    _process_present(batch, model, asks, evaluator)
                progress = f"{evaluator.dataset_name}: {i + 1} of {len(loader)} batches"
                log_every_n_seconds(logging.INFO, progress, n=20, name="hyperclip.evaluation")
    finally:
        model.train(training)


def _process_present(
    batch: list[dict], model: nn.Module, names: PresentNames, evaluator: SemSegEvaluator
) -> None:
    """Ask each image for the names in its labels, and count it; skip those without labels."""
    records: list[dict] = []
    for record in batch:
        asked = names(record)
        if asked is not None:
            records.append({**record, "asked": asked, "question": asked.question})
    questions = [record for record in records if record["question"] is not None]
    answers = iter(model(questions) if questions else [])
    outputs = [
        next(answers) if x["question"] is not None else x["asked"].without_asking() for x in records
    ]
    evaluator.process(records, outputs)
