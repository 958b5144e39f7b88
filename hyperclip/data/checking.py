"""Is a dataset what it should be? Its tree, its number of images, and a sample of its files."""

from dataclasses import dataclass, field

import numpy as np

from .image_files import exif_orientation, turned_fault
from .mapper import read_pair
from .pairing import left_out
from .records import make_records, pair_files
from .registry import DatasetSpec


@dataclass
class Report:
    """What was found of a dataset.

    Attributes:
        status: "ready", "incomplete", "faulty" or "missing".
        images: how many there are. faults: a line each. sampled: how many images were opened.
        layout: the label folder that is used, and its label map.
        left_out: lines on files that are neither images nor labels.
        pixels: of each class in the sampled labels, and last those that do not count (T + 1,).
        occurrences: in how many of these labels each class occurs (T,).
    """

    spec: DatasetSpec
    status: str = "ready"
    images: int = 0
    faults: list[str] = field(default_factory=list)
    layout: str = ""
    sampled: int = 0
    left_out: list[str] = field(default_factory=list)

    @property
    def expected(self) -> str:
        """Official number of images, as text."""
        return " or ".join(map(str, self.spec.images)) or "any"

    def __post_init__(self) -> None:
        classes = len(self.spec.label_names)
        self.pixels = np.zeros(classes + 1, np.int64)
        self.occurrences = np.zeros(classes, np.int64)

    def histogram(self) -> list[tuple[str, float, int]]:
        """(class, percent of the counted pixels, images with it), the most frequent class first."""
        counted = self.pixels[:-1]
        order = np.argsort(-counted, kind="stable")
        total, names = max(int(counted.sum()), 1), self.spec.label_names
        return [(names[k], 100 * int(counted[k]) / total, int(self.occurrences[k])) for k in order]


def check_dataset(spec: DatasetSpec, samples: int) -> Report:
    """Look for a dataset, match its files, count them, and open an even sample with labels, 0 for
    all. Nothing is raised. Where a YAML file does not say what EXIF tags mean, all are read.
    """
    report = Report(spec)
    try:
        found = pair_files(spec)
    except (FileNotFoundError, ValueError) as error:
        report.status = "missing" if isinstance(error, FileNotFoundError) else "faulty"
        report.faults = [str(error)]
        return report
    report.layout = f"{found.layout.labels} ({found.layout.label_map.name})"
    report.faults = list(found.faults)
    report.left_out = left_out(*found.kinds)
    records = make_records(spec, found)
    report.images = len(records)
    opened = spread(len(records), samples)
    for k in opened:
        _check_files(records[k], report)
    if spec.file and not spec.orientation:  # a few of many images may be turned
        others = {r["file_name"] for r in records} - {records[k]["file_name"] for k in opened}
        tags = ((path, exif_orientation(path)) for path in sorted(others))
        report.faults += [turned_fault(path, tag) for path, tag in tags if tag != 1]
    if report.sampled and not report.faults and not report.pixels[:-1].any():
        fault = f"no pixel of {report.sampled} labels counts: all have the ignore label"
        report.faults.append(f"{fault} {spec.ignore}")
    if report.faults or not records:
        report.status = "faulty"
    elif spec.images and len(records) not in spec.images:
        report.status = "incomplete"
    return report


def spread(count: int, samples: int) -> list[int]:
    """Which of ``count`` records to open, the first and the last among them; all for 0 samples."""
    if not samples or samples >= count:
        return list(range(count))
    return np.linspace(0, count - 1, samples).round().astype(int).tolist()


def _check_files(record: dict, report: Report) -> None:
    """Open an image and its label; add what is wrong, or the label's classes."""
    report.sampled += 1
    try:
        _, label = read_pair(record)
    except (ValueError, FileNotFoundError) as error:
        report.faults.append(str(error))
        return
    classes = len(report.occurrences)
    indices = np.where(label == report.spec.ignore, classes, label).ravel()
    counts = np.bincount(indices, minlength=classes + 1)
    report.pixels += counts
    report.occurrences += counts[:classes] > 0
