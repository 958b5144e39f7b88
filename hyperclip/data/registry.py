"""The registered datasets, one table: folders, classes, background and how labels are read."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..labels import IGNORE
from ..runtime.files import local_path, user_path
from ..tinyscenes import drawing as tinyscenes
from ..tinyscenes import fine
from ..vocabulary import Vocabulary, builtin
from . import layouts
from .layouts import Layout

BACKGROUND_RULES = ("none", "fold", "threshold")
VOCABULARIES = ("catseg", "cliper", "clean")
"""Families of class lists: CAT-Seg's, CLIPer's, and ours with split compounds and all synonyms."""


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset under one protocol.

    Attributes:
        name: what configs call it, CAT-Seg's name where it has one. alias: a short one.
        images: official number of images, several if official lists differ; empty for any.
        background: "none": pixels of no class do not count. Else the class behind the last one is
            the background, and predicted where the model answers with one of the vocabulary's
            background words ("fold"), or with no class at all because its score stays below a
            threshold ("threshold").
        layouts: the directory layouts that are accepted; the first that is there is used.
        vocabularies: class list, or the name of a built-in one, by family; "catseg" is needed.
        help: how to get the data. ignore: label of pixels that do not count.
        halves: each 2:1 image is two samples, its right and its left half.
        root: folder of the layouts; None for :func:`dataset_root`.
        note: how the numbers compare with others. benchmark: is it one of the papers' test sets?
        orientation: what labels follow where EXIF turns an image: "stored", "applied", "" (error).
        image_bits, max_pixels: see :func:`hyperclip.data.mapper.read_image`.
        file: the YAML file that describes it.
    """

    name: str
    alias: str
    images: tuple[int, ...]
    background: str
    layouts: tuple[Layout, ...]
    vocabularies: Mapping[str, str | Vocabulary]
    help: str
    ignore: int = IGNORE
    halves: bool = False
    root: Path | None = None
    note: str = ""
    benchmark: bool = True
    orientation: str = ""
    image_bits: int = 0
    max_pixels: int = 0
    file: Path | None = None

    @property
    def folder(self) -> Path:
        """Folder that the layouts are in."""
        return self.root or dataset_root()

    @property
    def label_names(self) -> list[str]:
        """Names of the labels' classes, all of them different, "background" last where it counts."""
        vocabulary = self.vocabulary("catseg")
        often = Counter(vocabulary.names)
        names = [s[0] if often[s[0]] == 1 else ", ".join(s) for s in vocabulary.classes]
        return names if self.background == "none" else [*names, "background"]

    def vocabulary(self, family: str) -> Vocabulary:
        """The classes of a family, or else CAT-Seg's; ValueError for an unknown family."""
        if family not in VOCABULARIES:
            expected = f"expected one of {list(VOCABULARIES)}"
            raise ValueError(f"TEST.VOCABULARY: got {family!r}, {expected}")
        chosen = self.vocabularies.get(family, self.vocabularies["catseg"])
        return builtin(chosen) if isinstance(chosen, str) else chosen


def _lists(catseg: str, cliper: str = "") -> dict[str, str]:
    """Built-in class lists by family; there is a cleaned one of each."""
    return {"catseg": catseg, "clean": f"clean_{catseg}"} | ({"cliper": cliper} if cliper else {})


STUFF = _lists("coco_stuff", "cliper_coco_stuff")
OBJECT = _lists("coco_object", "cliper_coco_object")
CITY = _lists("cityscapes", "cliper_cityscapes")
VOC = _lists("voc20", "cliper_voc")
CONTEXT = _lists("context59", "cliper_context")

GET_STUFF = "download COCO 2017 images and stuffthingmaps_trainval2017"
GET_VOC = "download VOC 2012 trainval, and SegmentationClassAug if you have it"
GET_CONTEXT = "download VOC 2010 and Pascal Context, then run datasets/prepare_pascal_context_{}.py"
GET_CITY = "download leftImg8bit_trainvaltest and gtFine_trainvaltest"

SHRUNK = "images and labels are scaled to a shorter side of 512 and saved as JPEG before, as in the released code"
DIVIDED = "papers before mid 2022 also divide by classes that are only predicted (mIoU old), later ones by those present"
FOLDED = "39 more classes of Pascal Context are prompted and count as background"
OWN_LABELS = "the papers made their labels from COCO's instances in ways of their own"
IN_HALVES = "each image cut into two squares, as CLIPer does; others take it whole or in windows"


def _tinyscenes(name: str, ground: tuple[str, ...] = (), ending: str = "") -> DatasetSpec:
    """A split of tinyscenes; with words for the ground its pixels count, and are to get no class.
    The dataset's name is the split's with an ending, of which the alias has the first two letters.
    """
    split = (tinyscenes.SPLITS | fine.FINE_SPLITS)[name]
    names = tinyscenes.class_names(split.part)
    vocabulary = Vocabulary.from_names(names, f"tinyscenes_{split.part}", "1")
    return DatasetSpec(
        f"tinyscenes_{name}{ending}",
        f"tiny_{name}{ending[:2]}",
        (split.images,),
        "threshold" if ground else "none",
        layouts.tinyscenes(name, len(names), bool(ground)),
        {"catseg": replace(vocabulary, background=ground)},
        "run datasets/prepare_tinyscenes.py",
        benchmark=False,
    )


_TABLE = (
    # name, alias, images, background, files, class lists, how to get it
    DatasetSpec("coco_2017_train_stuff_all_sem_seg", "stuff_train", (118287,), "none", layouts.coco_stuff("train2017"), STUFF,
                GET_STUFF, benchmark=False),
    DatasetSpec("coco_2017_test_stuff_all_sem_seg", "stuff", (5000,), "none", layouts.coco_stuff("val2017"), STUFF, GET_STUFF),
    DatasetSpec("ade20k_150_test_sem_seg", "a150", (2000,), "none", layouts.ADE150, _lists("ade150", "cliper_ade150"),
                "download ADEChallengeData2016"),
    DatasetSpec("ade20k_full_sem_seg_freq_val_all", "a847", (2000,), "none", layouts.ADE847, _lists("ade847"),
                "request ADE20K_2021_17_01, then run datasets/prepare_ade20k_847.py", ignore=65535, note=SHRUNK),
    DatasetSpec("context_59_test_sem_seg", "pc59", (5104, 5105), "none", layouts.CONTEXT59, CONTEXT, GET_CONTEXT.format(59)),
    DatasetSpec("context_60_test_sem_seg", "pc60", (5104, 5105), "threshold", layouts.CONTEXT59_WITH_BACKGROUND, CONTEXT,
                GET_CONTEXT.format(59)),
    DatasetSpec("context_459_test_sem_seg", "pc459", (5104, 5105), "none", layouts.CONTEXT459, _lists("context459"),
                GET_CONTEXT.format(459), ignore=459, note=DIVIDED),
    DatasetSpec("voc_2012_test_sem_seg", "pas20", (1449,), "none", layouts.VOC, VOC, GET_VOC),
    DatasetSpec("voc_2012_test_background_sem_seg", "pas20b", (1449,), "fold", layouts.VOC_WITH_BACKGROUND, _lists("voc20b"),
                GET_VOC, note=FOLDED),
    DatasetSpec("voc_2012_test_21_sem_seg", "voc21", (1449,), "threshold", layouts.VOC_WITH_BACKGROUND, VOC, GET_VOC),
    DatasetSpec("coco_object_test_sem_seg", "object", (5000,), "threshold", layouts.COCO_OBJECT, OBJECT,
                "download COCO 2017 and instances_val2017.json, then run datasets/prepare_coco_object.py", note=OWN_LABELS),
    DatasetSpec("cityscapes_test_sem_seg", "city", (500,), "none", layouts.CITYSCAPES, CITY, GET_CITY),
    DatasetSpec("cityscapes_halves_test_sem_seg", "city_halves", (1000,), "none", layouts.CITYSCAPES, CITY, GET_CITY,
                halves=True, note=IN_HALVES),
    *map(_tinyscenes, tinyscenes.SPLITS),
    *(_tinyscenes(name, tinyscenes.GROUND, "_background") for name in ("val_seen", "val_unseen")),
    *(_tinyscenes(name, fine.GROUNDS) for name in fine.FINE_SPLITS),
)  # fmt: skip

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in _TABLE}
"""Every registered dataset by name."""


def dataset_root() -> Path:
    """Folder of all datasets: the environment variable DETECTRON2_DATASETS, read at every call, or
    ``datasets`` in the working folder or else, in a checkout, in the repository.
    """
    given = os.environ.get("DETECTRON2_DATASETS")
    return user_path(given) if given else local_path("datasets")


def find_dataset(name: str) -> DatasetSpec:
    """A dataset by its name or its alias; ValueError if there is none."""
    for spec in DATASETS.values():
        if name in (spec.name, spec.alias):
            return spec
    aliases = [spec.alias for spec in DATASETS.values()]
    raise ValueError(
        f"dataset: got {name!r}, expected one of {aliases} or its full name, one of "
        f"{sorted(DATASETS)}. Your own is described by a YAML file, see datasets/README.md"
    )
