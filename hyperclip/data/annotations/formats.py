"""The formats by the name that a YAML file calls them."""

from collections.abc import Mapping
from types import MappingProxyType

from .coco import CocoInstances, CocoPanoptic
from .colours import Colours
from .labelme import LabelMe
from .source import AnnotationSource
from .yolo import YoloPolygons

FORMATS: Mapping[str, type[AnnotationSource]] = MappingProxyType(
    {kind.format: kind for kind in (Colours, CocoInstances, CocoPanoptic, LabelMe, YoloPolygons)}
)
"""How labels may be stored, besides masks of class indices."""

KEY_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "colours": 'colours such as "#ff0000", in small letters and quotes',
        "coco": "category ids, whole numbers",
        "coco_panoptic": "category ids, whole numbers",
        "labelme": "names, as texts",
        "yolo": "numbers of classes, from 0 on",
    }
)
"""What the keys of ``label_map`` are, in words."""
