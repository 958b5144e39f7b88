"""Detectron2's evaluator interface over the confusion matrix."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import IO

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.label_maps import read_record_label
from ..data.mapper import exif_hint
from ..runtime.files import write_atomically
from ..runtime.finite import FiniteCheck
from .boundary_iou import BoundaryCounts
from .confusion import ConfusionMatrix, SegmentationScores
from .protocols import answered_labels, background_rule, to_dataset_labels


class SemSegEvaluator(DatasetEvaluator):
    """Scores of a registered dataset, by its background rule and without its ignored pixels.

    Accepts "sem_seg" (P, H, W) scores and "sem_seg_labels" (H, W), -1 where a model abstains.
    Counts are integers on the device of the first output, summed over all processes, which is exact
    as Detectron2's inference sampler hands out each image once. Memory does not grow with images.

    Args:
        dataset_name: a registered dataset with ``stuff_classes`` and ``ignore_label``.
        boundary: also compute the mean Boundary IoU, on the CPU.
        per_image: file that gets a line of JSON for each image: image_id, its own mIoU, pACC.
    """

    def __init__(
        self, dataset_name: str, boundary: bool = False, per_image: Path | None = None
    ) -> None:
        meta = MetadataCatalog.get(dataset_name)
        self.dataset_name = dataset_name
        self.names, self.ignore = list(meta.stuff_classes), meta.ignore_label
        self.background = background_rule(dataset_name)
        self.with_boundary, self.per_image = boundary, per_image
        self._lines: IO[str] | None = None
        self.reset()

    def reset(self) -> None:
        if self._lines is not None:
            self._lines.close()
        self._lines = None
        self.matrix = ConfusionMatrix(len(self.names), self.ignore)
        self.boundary = BoundaryCounts(len(self.names), self.ignore)
        self.images = 0
        if self.per_image is not None:
            self.per_image.parent.mkdir(parents=True, exist_ok=True)
            self._lines = _part(self.per_image, comm.get_rank()).open("w", encoding="utf-8")

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add a batch: records with "sem_seg_file_name", and the model's outputs for them.

        Raises:
            ValueError, FileNotFoundError: a label that cannot be read, or has another size or
                unknown values.
            NotFiniteError: scores, or the confidence of labels, that hold NaN or infinity.
        """
        for record, output in zip(inputs, outputs, strict=True):
            name = record.get("file_name", record["sem_seg_file_name"])
            answers = [output[key] for key in ("sem_seg", "sem_seg_confidence") if key in output]
            FiniteCheck().add(f"the answer for {name}", *answers).require()
            answer = answered_labels(output)
            prediction = to_dataset_labels(answer, len(self.names), self.background)
            truth = torch.from_numpy(read_record_label(record))
            self.matrix.counts = self.matrix.counts.to(prediction.device)
            try:
                added = self.matrix.update(truth, prediction)
            except ValueError as error:
                hint = exif_hint(record) if truth.shape != prediction.shape else ""
                raise ValueError(
                    f"dataset {self.dataset_name}, {record['sem_seg_file_name']}: {error}{hint}"
                ) from error
            self.images += 1
            if self.with_boundary:
                self.boundary.update(truth.numpy(), prediction.cpu().numpy())
            if self._lines is not None:
                found = SegmentationScores.from_counts(added)
                scores = {"mIoU": found.miou, "pACC": found.pixel_accuracy}
                line = {k: None if math.isnan(v) else v for k, v in scores.items()}
                self._lines.write(json.dumps({"image_id": record.get("image_id"), **line}) + "\n")

    def evaluate(self) -> OrderedDict | None:
        """Scores in percent of all processes, on the main one; None elsewhere."""
        if self._lines is not None:
            self._lines.close()
        gathered = comm.gather((self.matrix.counts.cpu(), self.boundary.counts, self.images))
        if not comm.is_main_process():
            return None
        if self.per_image is not None:
            parts = [_part(self.per_image, rank) for rank in range(comm.get_world_size())]
            text = "".join(part.read_text(encoding="utf-8") for part in parts)
            write_atomically(self.per_image, lambda path: path.write_text(text, encoding="utf-8"))
            for part in parts:
                part.unlink()
        scores = SegmentationScores.from_counts(sum(counts for counts, _, _ in gathered))
        result = {
            "mIoU": scores.miou,
            "mIoU_old": scores.miou_old,
            "pACC": scores.pixel_accuracy,
            "mACC": scores.mean_accuracy,
            "images": sum(images for _, _, images in gathered),
        }
        if self.with_boundary:
            self.boundary.counts = sum(counts for _, counts, _ in gathered)
            result["boundary_mIoU"] = self.boundary.miou()
        for name, iou in zip(self.names, scores.iou, strict=True):
            if not math.isnan(iou):
                result[f"IoU-{name}"] = iou
        return OrderedDict(sem_seg=result)


def _part(per_image: Path, rank: int) -> Path:
    """Where a process writes its lines until they are joined in the order of the dataset."""
    return per_image.with_name(f"{per_image.name}.{rank}.part")
