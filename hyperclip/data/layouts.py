"""Every accepted layout of folders of the known datasets, the best first: labels as published
("raw") or as CAT-Seg's scripts and ours convert them, and CLIPer's folders.
"""

from dataclasses import dataclass

from .annotations.source import AnnotationSource
from .label_maps import LABEL_MAPS, LabelMap


@dataclass(frozen=True)
class Layout:
    """Where a dataset's files are, below the root.

    Attributes:
        images, labels: folders, in which an image and its label share a key: the path without
            suffix and affixes.
        lists: files with a key a line, one of which has to exist; the first of these is the split.
        superset: the image folder also holds images of other splits: the labels choose.
        image_affix, label_affix: what a file's name has before and after its key.
        source: how labels are stored that are no masks of indices. Where one file holds them all,
            ``labels`` is that file.
    """

    images: str
    labels: str
    label_map: LabelMap
    lists: tuple[str, ...] = ()
    superset: bool = False
    image_affix: tuple[str, str] = ("", "")
    label_affix: tuple[str, str] = ("", "")
    source: AnnotationSource | None = None


def coco_stuff(split: str) -> tuple[Layout, ...]:
    """COCO-Stuff, split "train2017" or "val2017": converted, raw, MMSegmentation's, CLIPer's."""
    raw, converted = LABEL_MAPS["coco_stuff"], LABEL_MAPS["indices_171"]
    images, ours = f"coco-stuff/images/{split}", f"coco-stuff/annotations_detectron2/{split}"
    return (
        Layout(images, ours, converted),
        *(
            Layout(f"{folder}/images/{split}", f"{folder}/annotations/{split}", label_map,
                   label_affix=("", end))
            for folder in ("coco-stuff", "coco_stuff164k")
            for end, label_map in (("", raw), ("_labelTrainIds", converted))
        ),
        Layout(f"coco2017/{split}", f"coco2017/stuff_anno164/{split}", converted),
    )  # fmt: skip


_OBJECT_MAP = LABEL_MAPS["from_one_80_background"]
COCO_OBJECT = (
    Layout("coco-stuff/images/val2017", "coco-stuff/annotations_object/val2017", _OBJECT_MAP),
    Layout("coco2014/val2014", "coco2014/coco_seg_anno", _OBJECT_MAP, ("coco2014/val_5k.txt",),
           image_affix=("COCO_val2014_", "")),
    *(
        Layout(f"{folder}/images/val2017", f"{folder}/annotations/val2017", _OBJECT_MAP,
               label_affix=("", "_instanceTrainIds"))
        for folder in ("coco-stuff", "coco_stuff164k")
    ),
)  # fmt: skip

ADE150 = tuple(
    Layout(f"{folder}/images/validation", f"{folder}/annotations{end}/validation", LABEL_MAPS[name])
    for folder in ("ADEChallengeData2016", "ADEchallengeData2016")
    for end, name in (("_detectron2", "indices_150"), ("", "from_one_150"))
)
_ADE847 = "ADE20K_2021_17_01/{}_detectron2/validation".format
ADE847 = (Layout(_ADE847("images"), _ADE847("annotations"), LABEL_MAPS["ade847_indices"]),)


def _voc(converted: str, converted_map: str, raw_map: str) -> tuple[Layout, ...]:
    voc = "VOCdevkit/VOC2012"
    images, val = f"{voc}/JPEGImages", (f"{voc}/ImageSets/Segmentation/val.txt",)
    raw = LABEL_MAPS[raw_map]
    return (
        Layout(images, f"{voc}/{converted}/val", LABEL_MAPS[converted_map], superset=True),
        Layout(images, f"{voc}/SegmentationClassAug", raw, val),
        Layout(images, f"{voc}/SegmentationClass", raw, val),
    )


VOC = _voc("annotations_detectron2", "indices_20", "from_one_20")
VOC_WITH_BACKGROUND = _voc("annotations_detectron2_bg", "indices_21", "from_one_20_background")


def _context(converted_map: str, raw_map: str) -> tuple[Layout, ...]:
    context = "VOCdevkit/VOC2010"
    names = ("pascalcontext_val.txt", "ImageSets/SegmentationContext/val.txt", "context_val.txt")
    lists = tuple(f"{context}/{name}" for name in names)
    images, converted = f"{context}/JPEGImages", f"{context}/annotations_detectron2/pc59_val"
    return (
        Layout(images, converted, LABEL_MAPS[converted_map], superset=True),
        Layout(images, f"{context}/SegmentationClassContext", LABEL_MAPS[raw_map], lists),
    )


CONTEXT59 = _context("indices_59", "from_one_59")
CONTEXT59_WITH_BACKGROUND = _context("indices_59_background", "from_one_59_background")
CONTEXT459 = (
    Layout("VOCdevkit/VOC2010/JPEGImages", "VOCdevkit/VOC2010/annotations_detectron2/pc459_val",
           LABEL_MAPS["context459_indices"], superset=True),
)  # fmt: skip

CITYSCAPES = tuple(
    Layout(f"{folder}/leftImg8bit/val", f"{folder}/gtFine/val", LABEL_MAPS[label_map],
           image_affix=("", "_leftImg8bit"), label_affix=("", f"_gtFine_{kind}"))
    for kind, label_map in (("labelTrainIds", "indices_19"), ("labelIds", "cityscapes"))
    for folder in ("cityscapes", "CityScapes")
)  # fmt: skip


def tinyscenes(split: str, classes: int, background: bool = False) -> tuple[Layout, ...]:
    """A split of tinyscenes; with ``background`` the ground counts."""
    label_map = LABEL_MAPS[f"indices_{classes}" + "_background" * background]
    return (Layout(f"tinyscenes/{split}/images", f"tinyscenes/{split}/labels", label_map),)
