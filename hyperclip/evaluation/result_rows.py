"""A row of the benchmarks' table: the number, what it depends on, how it differs from a paper's."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..config import plain_settings
from ..data import DatasetSpec, class_lists
from ..data.annotations.source import IndexSource
from ..data.pairing import find_path
from ..vocabulary import synonym_rule
from .asking import PRESENT
from .kept_rows import content_hash, framework_versions, named_contents
from .paper_figures import NO_INFLUENCE, Published, changed_settings, published_for
from .running import Evaluation

PRESENT_NAMES = ", present names"
"""What a protocol's name ends with where only the names in an image's labels are asked."""


@dataclass(frozen=True)
class Benchmark:
    """A dataset that is ready to be evaluated."""

    spec: DatasetSpec
    records: list[dict]  # what is evaluated
    total: int  # how many there are without a limit
    faults: int = 0  # files that have no counterpart, or are there twice

    @property
    def complete(self) -> bool:
        """Whether all images of the official set are evaluated."""
        official = not self.spec.images or self.total in self.spec.images
        return len(self.records) == self.total and official and not self.faults


def describe_evaluation(
    cfg: CfgNode, benchmark: Benchmark, found: Evaluation, system: str = ""
) -> dict[str, Any]:
    """Everything that says what a number is; ``system``: a name in place of the system's own."""
    spec, vocabulary = benchmark.spec, found.vocabulary
    papers = _comparable(found, spec)
    scores = {key: None if math.isnan(value) else value for key, value in found.scores.items()}
    overall = {k: v for k, v in scores.items() if not k.startswith("IoU-") and k != "images"}
    return {
        "system": system or found.description.system,
        "benchmark": spec.alias,
        "dataset": spec.name,
        "seed": cfg.SEED,
        "weights": cfg.MODEL.WEIGHTS,
        "backbone": found.description.backbone,
        "trained_on": ", ".join(found.trained_on),
        "protocol": found.protocol + (PRESENT_NAMES if found.ask == PRESENT else ""),
        "ask": found.ask,
        "vocabulary": f"{vocabulary.name} {vocabulary.version}".strip(),
        "precision": found.precision,
        "prompts": cfg.MODEL.PROMPT_ENSEMBLE_TYPE,
        "synonyms": synonym_rule(cfg.MODEL.SYNONYMS, vocabulary.typed),
        "images": len(benchmark.records),
        "official_images": spec.images[0] if spec.images else benchmark.total,
        "complete": benchmark.complete,
        "labels": found.labels,
        **overall,
        "seconds_per_image": found.seconds,
        "peak_memory_mb": found.peak_memory,
        "published": [
            {"miou": p.miou[spec.alias], "backbone": p.backbone, "source": p.source} for p in papers
        ],
        "notes": list(notes(cfg, benchmark, found)),
        "settings": dict(found.description.settings),
        "IoU": {name: scores.get(f"IoU-{name}") for name in spec.label_names},
    }


def notes(cfg: CfgNode, benchmark: Benchmark, found: Evaluation) -> Iterator[str]:
    """Why a number is not to be compared with a published one as it stands."""
    spec, system = benchmark.spec, found.description
    papers = _comparable(found, spec)
    if found.ask == PRESENT:
        yield (
            "only the names in each image's labels are asked, which makes it easier: not to be "
            "compared with results for which all are asked, the papers' among them"
        )
        if skipped := len(benchmark.records) - int(found.scores.get("images", 0)):
            yield f"{skipped} images without any label skipped"
    if not benchmark.complete:
        yield "not the whole set"
    if benchmark.faults:
        yield f"{benchmark.faults} files without a counterpart left out"
    if spec.note:
        yield spec.note
    released = spec.vocabulary(system.class_lists)
    if spec.background == "fold":
        released = released.with_background_prompts()
    synonyms = synonym_rule(cfg.MODEL.SYNONYMS, found.vocabulary.typed)
    if synonyms != "first" or found.vocabulary.classes != released.classes:
        yield "other class names or synonyms than the method's released ones"
    elif found.vocabulary.prompts:
        yield "classes with descriptions or templates of their own"
    elif found.vocabulary.negatives != released.negatives:
        yield "other negatives than the released ones"
    yield from system.notes
    if papers and all(p.backbone != system.backbone for p in papers):
        yield "another backbone than the paper's"
    elif papers:
        yield from (p.note for p in papers if p.note)
        changed = changed_settings(cfg, spec, papers, system.variant_settings)
        if changed is None:
            yield "no released settings for this row are here to be compared with"
        elif changed:
            yield f"other settings than the released ones: {', '.join(changed)}"
    if _other_background(found, spec):
        rule = f"background by the rule {found.protocol!r} (TEST.BACKGROUND)"
        yield f"{rule} instead of a threshold: a protocol of its own"
    if system.class_lists == "catseg" and found.protocol == "threshold":
        rule = f"background below a score of {cfg.TEST.BACKGROUND_THRESHOLD}"
        yield f"{rule}, which no paper reports for this model"


def _comparable(found: Evaluation, spec: DatasetSpec) -> list[Published]:
    """The papers' figures beside a result: none where it is of another protocol than theirs."""
    if found.ask == PRESENT or _other_background(found, spec):
        return []
    return published_for(found.description, spec.alias)


def _other_background(found: Evaluation, spec: DatasetSpec) -> bool:
    """Whether the background was found otherwise than by the dataset's threshold."""
    return spec.background == "threshold" and found.protocol != "threshold"


def fingerprint(cfg: CfgNode, benchmark: Benchmark) -> str:
    """A hash of all that a row depends on: the config, files that it names, the vocabulary, the
    data, the meaning of its labels, the framework. Files count by their content; may be OSError.
    """
    keys = {k: v for k, v in plain_settings(cfg).items() if not k.startswith(NO_INFLUENCE)}
    files = {k: v for k, v in named_contents(cfg).items() if not k.startswith(NO_INFLUENCE)}
    spec, records = benchmark.spec, benchmark.records
    vocabulary = class_lists.test_vocabulary(cfg, spec.name)
    asked = [vocabulary.classes, vocabulary.negatives, vocabulary.version]
    maps = {r["label_map"] for r in records}
    labels = sorted((m.name, sorted(m.classes.items())) for m in maps)
    names = [(r["image_id"], r["file_name"], r["sem_seg_file_name"]) for r in records]
    paths = [r[key] for r in records for key in ("file_name", "sem_seg_file_name")]
    data = [content_hash(Path(path)) for path in paths]
    sources = [(repr(x.source), x.labels) for x in spec.layouts if x.source]
    files |= {
        f"labels {x.labels}": content_hash(find_path(spec.folder, x.labels))
        for x in spec.layouts
        if isinstance(x.source, IndexSource)
    }
    protocol = [spec.name, spec.background, spec.ignore, spec.halves, benchmark.faults]
    content = [keys, files, asked, labels, sources, names, data, protocol, framework_versions()]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
