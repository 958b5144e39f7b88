"""What a segmentation says, in the forms that other programs read.

Every form is made from an :class:`Answer`, and ``Prediction`` has a method for each. Shapes: T
classes, H W image.
"""

from .answer import Answer, Region
from .coco import coco_document
from .hugging_face import hugging_face_segments
from .labelme import labelme_document
from .panoptic import Panoptic, panoptic
from .tables import ClassRow, class_table
from .writers import WRITERS, Writer, add_to_all, build_writers, write_arrays
