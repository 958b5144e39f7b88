"""Detectron2's evaluator interface over the confusion matrix."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.labels import read_label
from .confusion import ConfusionMatrix


class SemSegEvaluator(DatasetEvaluator):
    """mIoU of a registered dataset: argmax over its vocabulary, pixels with the ignore label left out.

    Accepts "sem_seg" (T, H, W) scores and "sem_seg_labels" (H, W), -1 where a model abstains. The counts of all
    processes are summed, which is exact with Detectron2's inference sampler: it hands out each image once.

    Args:
        dataset_name: a registered dataset with ``stuff_classes`` and ``ignore_label``.
    """

    def __init__(self, dataset_name: str) -> None:
        meta = MetadataCatalog.get(dataset_name)
        self.dataset_name, self.names = dataset_name, list(meta.stuff_classes)
        self.matrix = ConfusionMatrix(len(self.names), meta.ignore_label)
        self.images = 0

    def reset(self) -> None:
        self.matrix = ConfusionMatrix(len(self.names), self.matrix.ignore)
        self.images = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add a batch: records with "sem_seg_file_name", and the model's outputs for them."""
        for record, output in zip(inputs, outputs, strict=True):
            prediction = output["sem_seg_labels"] if "sem_seg_labels" in output else output["sem_seg"].argmax(0)
            truth = read_label(record["sem_seg_file_name"], record.get("label_remap"))
            self.matrix.update(torch.from_numpy(truth.astype("int64")), prediction.cpu())
            self.images += 1

    def evaluate(self) -> OrderedDict | None:
        """Scores in percent of all processes, on the main one; None elsewhere."""
        parts = comm.gather((self.matrix.counts, self.images))
        if not comm.is_main_process():
            return None
        total = sum(counts for counts, _ in parts)
        self.matrix.counts = total
        scores = self.matrix.scores()
        result = {
            "mIoU": scores.miou,
            "mIoU_old": scores.miou_old,
            "pACC": scores.pixel_accuracy,
            "mACC": scores.mean_accuracy,
            "images": sum(images for _, images in parts),
        }
        result |= {f"IoU-{n}": v for n, v in zip(self.names, scores.iou, strict=True) if not math.isnan(v)}
        return OrderedDict(sem_seg=result)
