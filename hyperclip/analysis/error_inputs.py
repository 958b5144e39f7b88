"""What an error analysis reads: saved predictions, the dataset's labels, classes of training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data import DATASETS, label_maps
from ..data.dataset_file import register_files
from ..data.records import make_records, pair_files
from ..evaluation.confusion import SegmentationScores
from ..evaluation.results_files import read_results
from ..evaluation.saved_predictions import INDEX, SavedPredictions, read_predictions
from ..vocabulary import Vocabulary, load_vocabulary
from ..vocabulary.names import tokens_of
from ..vocabulary.vocabulary import LISTS
from .errors import ErrorCounts

TOLERANCE = 1e-6
"""How far scores, in percent, of the same predictions may be apart."""


class Result(NamedTuple):
    """A row of results with the predictions that it counts."""

    row: dict[str, Any]
    saved: SavedPredictions
    records: list[dict]  # one for each image of the predictions


def find_result(folder: Path, dataset: str = "", system: str = "") -> Result:
    """The result of an output folder that has predictions, on the dataset (name or alias) and by
    the system if these are given.

    Raises:
        FileNotFoundError: no results, no predictions, or no dataset. ValueError: several results to
            choose from, files that are none of these, or of another dataset than is here.
    """
    rows = [row for row in read_results(folder) if "error" not in row]
    known = [f"{row['system']} on {row['dataset']}" for row in rows]
    if dataset:
        rows = [row for row in rows if dataset in (row["dataset"], row.get("benchmark"))]
    if system:
        rows = [row for row in rows if row["system"] == system]
    if not rows:
        asked = ", ".join(filter(None, [dataset, system])) or "any result"
        raise ValueError(f"{str(folder)!r}: got no row for {asked}, expected one of {known}")
    found = [(row, place) for row in rows if (place := _place(folder, row))]
    if not found:
        how = "Evaluate again with TEST.SAVE_PREDICTIONS True"
        raise FileNotFoundError(f"{str(folder)!r} has results and no predictions. {how}")
    if len(found) > 1:
        choices = [f"{row['system']} on {row['dataset']}" for row, _ in found]
        raise ValueError(
            f"{str(folder)!r} has predictions of {len(found)} results, {choices}: expected one. "
            "Choose by --dataset and --system"
        )
    row, place = found[0]
    saved = read_predictions(place)
    return Result(row, saved, records_of(saved))


def _place(folder: Path, row: dict[str, Any]) -> Path | None:
    """Where the predictions of a row are: below rows/SYSTEM for tools/evaluate.py."""
    places = [folder / "rows" / row["system"], folder]
    for place in (place / "predictions" / row["dataset"] for place in places):
        if (place / INDEX).is_file():
            return place
    return None


def records_of(saved: SavedPredictions) -> list[dict]:
    """The dataset's record of each image of predictions.

    Raises:
        FileNotFoundError, ValueError: a dataset that is not here, or other classes or images than
            when it was evaluated.
    """
    name, file = saved.about["dataset"], saved.about.get("dataset_file")
    if name not in DATASETS and file:
        register_files([file])
    if name not in DATASETS:
        known = "which no shipped table and no YAML file describes"
        raise ValueError(f"predictions of dataset {name!r}, {known}: its labels cannot be read")
    spec = DATASETS[name]
    if (spec.label_names, spec.ignore) != (saved.about["names"], saved.about["ignore"]):
        raise ValueError(
            f"{str(saved.folder)!r}: dataset {name} has other classes or another ignored label "
            "than when it was evaluated. Evaluate again"
        )
    records = {record["image_id"]: record for record in make_records(spec, pair_files(spec))}
    missing = [x["image_id"] for x in saved.images if x["image_id"] not in records]
    if missing or not saved.images:
        got = f"image {missing[0]!r}, which dataset {name} has not" if missing else "no image"
        raise ValueError(f"{str(saved.folder)!r}: got {got}. Evaluate again")
    return [records[x["image_id"]] for x in saved.images]


def count_errors(result: Result) -> ErrorCounts:
    """Read all images and count; ValueError if their scores are not those of the row, and as
    :func:`hyperclip.data.label_maps.read_record_label`.
    """
    about, classes = result.saved.about, len(result.saved.about["names"])
    background = classes - 1 if about["background"] != "none" else None
    counts = ErrorCounts(classes, about["ignore"], background)
    for place, (truth, prediction, confidence) in enumerate(images_of(result)):
        entry = result.saved.images[place]
        try:
            counts.add(entry["image_id"], place, truth, prediction, confidence)
        except ValueError as error:
            name = result.records[place]["sem_seg_file_name"]
            raise ValueError(f"dataset {about['dataset']}, {name}: {error}") from error
    _check_scores(counts, result)
    return counts


def images_of(result: Result) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Truth, prediction and confidence of each image, all (H, W)."""
    for entry, record in zip(result.saved.images, result.records, strict=True):
        truth = label_maps.read_record_label(record)
        yield truth, result.saved.labels(entry), result.saved.confidence(entry)


def _check_scores(counts: ErrorCounts, result: Result) -> None:
    scores = SegmentationScores.from_counts(counts.matrix.counts)
    found = {"mIoU": scores.miou, "pACC": scores.pixel_accuracy}
    for name, value in found.items():
        for source in (result.row, result.saved.about["scores"]):
            said = source.get(name)
            if said is None or abs(said - value) < TOLERANCE:
                continue
            raise ValueError(
                f"{str(result.saved.folder)!r}: its predictions give {name} {value:.4f} on the "
                f"labels that are here, the result says {said:.4f}. Results, predictions and "
                "labels do not belong together: evaluate again"
            )


def seen_classes(result: Result, given: str = "") -> dict[str, Any]:
    """Which classes were seen with masks in training.

    Args:
        given: their names: a file (.txt, .json), a built-in list, or text such as "dog; road"; ""
            for all names of the datasets that the model was trained on.
    Returns:
        "source" in words, and "flags", a bool for each label, None for the background, or for all
        labels where nothing says it. A class counts as seen if one of its synonyms is the same for
        the tokenizer as one of training.
    """
    about, spec = result.saved.about, DATASETS[result.saved.about["dataset"]]
    labels: list[bool | None] = [None] * len(about["names"])
    if given:
        vocabularies, source = [_given_names(given)], f"--seen {given}"
    else:
        unknown = [name for name in about["trained_on"] if name not in DATASETS]
        source = "trained on " + ", ".join(about["trained_on"])
        if unknown:
            source = f"trained on {', '.join(unknown)}, whose classes are not known here"
        if not about["trained_on"]:
            source = "the checkpoint does not say what it was trained on, or nothing was trained"
        if unknown or not about["trained_on"]:
            return {"source": source, "flags": labels}
        vocabularies = [DATASETS[name].vocabulary("catseg") for name in about["trained_on"]]
    known = {tokens_of(n) for v in vocabularies for names in v.classes for n in names}
    for k, names in enumerate(spec.vocabulary("catseg").classes):  # without the background
        labels[k] = not known.isdisjoint(map(tokens_of, names))
    return {"source": source, "flags": labels}


def _given_names(given: str) -> Vocabulary:
    """Names of a file, of a built-in list, or of a text."""
    is_file = Path(given).suffix.lower() in (".txt", ".json")
    if is_file or given in {path.stem for path in LISTS.glob("*.json")}:
        return load_vocabulary(given)
    return Vocabulary.from_text(given)
