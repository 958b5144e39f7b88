"""Detectron2's evaluator interface over the confusion matrix, and the datasets' background rules.

A model answers with the index of a prompt, or with ``NO_CLASS``. A dataset's labels are its classes
0..T-1, the last of which is the background where the dataset has one.
"""

import json
import math
from collections import OrderedDict
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from ..data import label_maps, mapper
from ..labels import NO_CLASS
from ..runtime import files, finite
from .asking import Asked, background_rule
from .confusion import BoundaryCounts, ConfusionMatrix, SegmentationScores
from .saved_predictions import PredictionWriter


def to_dataset_labels(answer: Tensor, classes: int, background: str) -> Tensor:
    """Translate prompt indices (H, W) into a dataset's labels.

    Args:
        answer: 0..P-1 or ``NO_CLASS``. classes: T, the background included where there is one.
        background: "none" leaves everything as it is, ``NO_CLASS`` included; "threshold" makes
            ``NO_CLASS`` the background T-1; "fold" does the same with every prompt from T-1 on.
    """
    if background == "none":
        return answer
    folded = answer == NO_CLASS
    if background == "fold":
        folded = folded | (answer >= classes - 1)
    return torch.where(folded, classes - 1, answer)


class SemSegEvaluator(DatasetEvaluator):
    """Scores of a registered dataset, by its background rule and without its ignored pixels.

    Accepts "sem_seg" (P, H, W) scores and "sem_seg_labels" (H, W), -1 where a model abstains.
    Counts are integers on the device of the first output, summed over all processes, which is exact
    as Detectron2's inference sampler hands out each image once. Memory grows by ``per_image`` only.

    Args:
        dataset_name: of Detectron2's catalog, with ``stuff_classes`` and ``ignore_label``.
        boundary: also compute the mean Boundary IoU, on the CPU.
        per_image: file that gets a line of JSON for each image: image_id, its own mIoU, pACC.
        saved: what saves labels and confidence of each image; records then say their place.
    """

    def __init__(
        self,
        dataset_name: str,
        boundary: bool = False,
        per_image: Path | None = None,
        saved: PredictionWriter | None = None,
    ) -> None:
        meta = MetadataCatalog.get(dataset_name)
        self.dataset_name = dataset_name
        self.names, self.ignore = list(meta.stuff_classes), meta.ignore_label
        self.background = background_rule(dataset_name)
        self.with_boundary, self.per_image, self.saved = boundary, per_image, saved
        self.reset()

    def reset(self) -> None:
        self.matrix = ConfusionMatrix(len(self.names), self.ignore)
        self.boundary = BoundaryCounts(len(self.names), self.ignore)
        self.images = 0
        self.lines: list[str] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add a batch: records with "sem_seg_file_name", and the model's outputs for them, which
        answer what is "asked" of a record, if it says so, else the dataset's whole vocabulary.
        ValueError or FileNotFoundError for a label without a file, of another size or of unknown
        values, NotFiniteError for NaN or infinity in scores or the confidence of labels.
        """
        for record, output in zip(inputs, outputs, strict=True):
            name = record.get("file_name", record["sem_seg_file_name"])
            answers = [output[key] for key in ("sem_seg", "sem_seg_confidence") if key in output]
            finite.FiniteCheck().add(f"the answer for {name}", *answers).require()
            labels = output.get("sem_seg_labels")
            answer = output["sem_seg"].argmax(0) if labels is None else labels
            asked: Asked | None = record.get("asked")
            if asked is None:
                prediction = to_dataset_labels(answer, len(self.names), self.background)
                truth = torch.from_numpy(label_maps.read_record_label(record))
            else:
                answer = asked.in_whole_vocabulary(answer)
                prediction = to_dataset_labels(answer, len(self.names), asked.background)
                truth = asked.truth
            self.matrix.counts = self.matrix.counts.to(prediction.device)
            try:
                added = self.matrix.update(truth, prediction)
            except ValueError as error:
                hint = mapper.exif_hint(record) if truth.shape != prediction.shape else ""
                raise ValueError(
                    f"dataset {self.dataset_name}, {record['sem_seg_file_name']}: {error}{hint}"
                ) from error
            self.images += 1
            if self.with_boundary:
                self.boundary.update(truth.numpy(), prediction.cpu().numpy())
            if self.saved is not None:
                confidence = output.get("sem_seg_confidence")
                if confidence is None and "sem_seg" in output:
                    confidence = output["sem_seg"].amax(0)
                self.saved.add(record, prediction, confidence, len(self.names))
            if self.per_image is not None:
                found = SegmentationScores.from_counts(added)
                scores = {"mIoU": found.miou, "pACC": found.pixel_accuracy}
                line = {k: None if math.isnan(v) else v for k, v in scores.items()}
                self.lines.append(json.dumps({"image_id": record.get("image_id"), **line}) + "\n")

    def evaluate(self) -> OrderedDict | None:
        """Scores in percent of all processes, on the main one; None elsewhere."""
        counts, lines = self.matrix.counts.cpu(), "".join(self.lines)
        gathered = comm.gather((counts, self.boundary.counts, self.images, lines))
        if not comm.is_main_process():
            return None
        matrices, boundaries, images, texts = zip(*gathered, strict=True)
        if self.per_image is not None:  # in the dataset's order, as the processes' shares are
            files.write_text(self.per_image, "".join(texts))
        scores = SegmentationScores.from_counts(sum(matrices))
        result = {
            "mIoU": scores.miou,
            "mIoU_old": scores.miou_old,
            "pACC": scores.pixel_accuracy,
            "mACC": scores.mean_accuracy,
            "images": sum(images),
        }
        if self.with_boundary:
            self.boundary.counts = sum(boundaries)
            result["boundary_mIoU"] = self.boundary.miou()
        for name, iou in zip(self.names, scores.iou, strict=True):
            if not math.isnan(iou):
                result[f"IoU-{name}"] = iou
        return OrderedDict(sem_seg=result)
