"""The registered data sets, one table. Each row knows its folders, its classes, its background and how labels are read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..vocabulary import Vocabulary, builtin
from . import tinyscenes
from .labels import IGNORE

BACKGROUND_RULES = ("none", "fold", "threshold")
VOCABULARIES = ("catseg", "cliper", "clean")
"""Families of class lists: CAT-Seg's and HyperCLIP's, CLIPer's, and ours with split compounds and all synonyms."""


@dataclass(frozen=True)
class Layout:
    """Where a data set's files are, below the root.

    Attributes:
        images, labels: folders. A picture and its label share a key: the path in the folder without suffix and affixes.
        label_map: what the labels' values mean, a name in ``LABEL_MAPS``.
        lists: candidate files with one key a line; the first that exists chooses the split. One has to exist, if any is given.
        superset: the image folder also holds pictures of other splits: the labels choose.
        image_affix, label_affix: what a file's name has before and after its key.
    """

    images: str
    labels: str
    label_map: str
    lists: tuple[str, ...] = ()
    superset: bool = False
    image_affix: tuple[str, str] = ("", "")
    label_affix: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class DatasetSpec:
    """One data set under one protocol.

    Attributes:
        name: what configs call it (CAT-Seg's name where it has one).
        alias: short name for the command line.
        layouts: the directory layouts that are accepted; the first that is there is used.
        vocabularies: class list by family, a built-in list's name or the list itself; "catseg" is always there.
        help: how to get the data.
        images: official number of pictures, more than one if official lists differ; empty for any.
        ignore: label of pixels that do not count.
        background: "none": pixels of no class do not count. Else the class behind the last one is the background, and
            predicted where the model answers with one of the vocabulary's background words ("fold"), or with no class at all
            because its score stays below a threshold ("threshold").
        halves: each 2:1 picture is two samples, its right and its left half.
        root: folder of the layouts; None for :func:`dataset_root`.
        note: how the numbers compare with others.
    """

    name: str
    alias: str
    layouts: tuple[Layout, ...]
    vocabularies: Mapping[str, str | Vocabulary]
    help: str
    images: tuple[int, ...] = ()
    ignore: int = IGNORE
    background: str = "none"
    halves: bool = False
    root: Path | None = None
    note: str = ""
    benchmark: bool = field(default=False)

    @property
    def label_names(self) -> list[str]:
        """Names of the labels' classes, all of them different, "background" last where it counts."""
        vocabulary = self.vocabulary()
        often = Counter(vocabulary.names)
        names = [s[0] if often[s[0]] == 1 else ", ".join(s) for s in vocabulary.classes]
        return names if self.background == "none" else [*names, "background"]

    def vocabulary(self, family: str = "catseg") -> Vocabulary:
        """The classes of a family; CAT-Seg's where that family has none for this data set.

        Raises:
            ValueError: an unknown family.
        """
        if family not in VOCABULARIES:
            raise ValueError(f"TEST.VOCABULARY: got {family!r}, expected one of {list(VOCABULARIES)}")
        chosen = self.vocabularies.get(family, self.vocabularies["catseg"])
        return builtin(chosen) if isinstance(chosen, str) else chosen


def _lists(catseg: str, cliper: str = "", clean: str = "") -> dict[str, str]:
    names = {"catseg": catseg, "cliper": cliper, "clean": clean or f"clean_{catseg}"}
    return {family: name for family, name in names.items() if name}


def _coco_stuff(name: str, alias: str, split: str, images: int) -> DatasetSpec:
    return DatasetSpec(
        name, alias,
        (
            Layout(f"coco-stuff/images/{split}", f"coco-stuff/annotations_detectron2/{split}", "indices_171"),
            Layout(f"coco-stuff/images/{split}", f"coco-stuff/annotations/{split}", "coco_stuff"),
            Layout(f"coco2017/{split}", f"coco2017/stuff_anno164/{split}", "indices_171"),
        ),
        _lists("coco_stuff", "cliper_coco_stuff"),
        "download COCO 2017 images and stuffthingmaps_trainval2017, see datasets/README.md",
        images=(images,), benchmark=split == "val2017",
    )  # fmt: skip


VOC = "VOCdevkit/VOC2012"
_VOC_HELP = "download VOC 2012 trainval and SegmentationClassAug, see datasets/README.md"


def _voc(name: str, alias: str, converted: str, background: str, vocabularies: dict[str, str], note: str = "") -> DatasetSpec:
    count_from_one = "from_one_20" if background == "none" else "from_one_20_background"
    folders = [converted] if converted else []
    layouts = [Layout(f"{VOC}/JPEGImages", f"{VOC}/{f}/val", "indices_20" if background == "none" else "indices_21",
                      superset=True) for f in folders]  # fmt: skip
    lists = (f"{VOC}/ImageSets/Segmentation/val.txt",)
    layouts += [
        Layout(f"{VOC}/JPEGImages", f"{VOC}/{folder}", count_from_one, lists)
        for folder in ("SegmentationClassAug", "SegmentationClass")
    ]
    return DatasetSpec(name, alias, tuple(layouts), vocabularies, _VOC_HELP, (1449,), background=background, note=note,
                       benchmark=True)  # fmt: skip


CONTEXT = "VOCdevkit/VOC2010"
_CONTEXT_LISTS = tuple(f"{CONTEXT}/{path}" for path in (
    "pascalcontext_val.txt", "ImageSets/SegmentationContext/val.txt", "context_val.txt"))  # fmt: skip
_CONTEXT_HELP = "download VOC 2010 and Pascal Context, then run datasets/prepare_pascal_context_59.py, see datasets/README.md"


def _context(name: str, alias: str, background: str) -> DatasetSpec:
    raw = "from_one_59" if background == "none" else "from_one_59_background"
    layouts = [Layout(f"{CONTEXT}/JPEGImages", f"{CONTEXT}/SegmentationClassContext", raw, _CONTEXT_LISTS)]
    converted = Layout(f"{CONTEXT}/JPEGImages", f"{CONTEXT}/annotations_detectron2/pc59_val",
                       "indices_59" if background == "none" else "indices_59_background", superset=True)  # fmt: skip
    return DatasetSpec(name, alias, (converted, *layouts), _lists("context59", "cliper_context"), _CONTEXT_HELP, (5104, 5105),
                       background=background, benchmark=True)  # fmt: skip


def _cityscapes(name: str, alias: str, halves: bool) -> DatasetSpec:
    layouts = tuple(
        Layout(f"{folder}/leftImg8bit/val", f"{folder}/gtFine/val", label_map, image_affix=("", "_leftImg8bit"),
               label_affix=("", f"_gtFine_{kind}"))
        for kind, label_map in (("labelTrainIds", "indices_19"), ("labelIds", "cityscapes"))
        for folder in ("cityscapes", "CityScapes")
    )  # fmt: skip
    note = "each picture cut into two squares, as CLIPer does; others take it whole or in windows" if halves else ""
    return DatasetSpec(name, alias, layouts, _lists("cityscapes", "cliper_cityscapes"),
                       "download leftImg8bit_trainvaltest and gtFine_trainvaltest, see datasets/README.md",
                       (1000 if halves else 500,), halves=halves, note=note, benchmark=True)  # fmt: skip


def _ade150() -> DatasetSpec:
    folders = ("ADEChallengeData2016", "ADEchallengeData2016")
    layouts = (
        *(Layout(f"{f}/images/validation", f"{f}/annotations_detectron2/validation", "indices_150") for f in folders),
        *(Layout(f"{f}/images/validation", f"{f}/annotations/validation", "from_one_150") for f in folders),
    )
    return DatasetSpec("ade20k_150_test_sem_seg", "a150", layouts, _lists("ade150", "cliper_ade150"),
                       "download ADEChallengeData2016, see datasets/README.md", (2000,), benchmark=True)  # fmt: skip


def _tinyscenes(split: str, part: str) -> DatasetSpec:
    layout = Layout(f"tinyscenes/{split}/images", f"tinyscenes/{split}/labels", f"indices_{len(tinyscenes.class_names(part))}")
    classes = Vocabulary.from_names(tinyscenes.class_names(part), f"tinyscenes_{part}", "1")
    return DatasetSpec(f"tinyscenes_{split}", f"tiny_{split}", (layout,), {"catseg": classes},
                       "run: python datasets/prepare_tinyscenes.py", (tinyscenes.SPLITS[split].images,))  # fmt: skip


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        _coco_stuff("coco_2017_train_stuff_all_sem_seg", "stuff_train", "train2017", 118287),
        _ade150(),
        DatasetSpec(
            "ade20k_full_sem_seg_freq_val_all", "a847",
            (Layout("ADE20K_2021_17_01/images_detectron2/validation", "ADE20K_2021_17_01/annotations_detectron2/validation",
                    "ade847_indices"),),
            _lists("ade847"),
            "request ADE20K_2021_17_01, then run datasets/prepare_ade20k_847.py, see datasets/README.md",
            (2000,), ignore=65535, benchmark=True,
            note="pictures and labels are scaled to a shorter side of 512 and saved as JPEG before, as in the released code",
        ),
        _context("context_59_test_sem_seg", "pc59", "none"),
        DatasetSpec(
            "context_459_test_sem_seg", "pc459",
            (Layout(f"{CONTEXT}/JPEGImages", f"{CONTEXT}/annotations_detectron2/pc459_val", "context459_indices",
                    superset=True),),
            _lists("context459"),
            "download VOC 2010 and Pascal Context's trainval, then run datasets/prepare_pascal_context_459.py",
            (5104, 5105), ignore=459, benchmark=True,
            note="papers before mid 2022 divide by 459 classes (mIoU old), later ones by those present",
        ),
        _voc("voc_2012_test_sem_seg", "pas20", "annotations_detectron2", "none", _lists("voc20", "cliper_voc")),
        _voc("voc_2012_test_background_sem_seg", "pas20b", "annotations_detectron2_bg", "fold",
             _lists("voc20b"), note="39 more classes of Pascal Context are prompted and count as background"),
        _voc("voc_2012_test_21_sem_seg", "voc21", "annotations_detectron2_bg", "threshold", _lists("voc20", "cliper_voc")),
        _context("context_60_test_sem_seg", "pc60", "threshold"),
        DatasetSpec(
            "coco_object_test_sem_seg", "object",
            (
                Layout("coco-stuff/images/val2017", "coco-stuff/annotations_object/val2017", "from_one_80_background"),
                Layout("coco2014/val2014", "coco2014/coco_seg_anno", "from_one_80_background", ("coco2014/val_5k.txt",),
                       image_affix=("COCO_val2014_", "")),
            ),
            _lists("coco_object", "cliper_coco_object"),
            "download COCO 2017 and instances_val2017.json, then run datasets/prepare_coco_object.py",
            (5000,), background="threshold", benchmark=True,
            note="the papers made their labels from COCO's instances in ways of their own",
        ),
        _coco_stuff("coco_2017_test_stuff_all_sem_seg", "stuff", "val2017", 5000),
        _cityscapes("cityscapes_test_sem_seg", "city", False),
        _cityscapes("cityscapes_halves_test_sem_seg", "city_halves", True),
        *(_tinyscenes(split, s.part) for split, s in tinyscenes.SPLITS.items()),
    )
}  # fmt: skip
"""Every registered data set by name."""


def dataset_root() -> Path:
    """Folder of all datasets: the environment variable DETECTRON2_DATASETS, read at every call, or ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def find_dataset(name: str) -> DatasetSpec:
    """A data set by its name or its alias.

    Raises:
        ValueError: neither.
    """
    for spec in DATASETS.values():
        if name in (spec.name, spec.alias):
            return spec
    raise ValueError(
        f"dataset: got {name!r}, expected one of {[s.alias for s in DATASETS.values()]} or its full name, one of "
        f"{sorted(DATASETS)}. Your own is described by a YAML file, see datasets/README.md"
    )
