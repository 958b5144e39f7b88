"""What a segmentation says, in the forms that other programs read.

Every form is made from an :class:`Answer`, and ``Prediction`` has a method for each. Shapes: T
classes, H W image.
"""

from .answer import Answer, Region
from .cityscapes import Cityscapes, cityscapes
from .coco import coco_document
from .cvat import Cvat, cvat
from .detections import supervision_detections
from .each_image import write_arrays
from .hugging_face import hugging_face_segments
from .label_studio import LabelStudio, label_studio
from .labelme import labelme_document
from .panoptic import Panoptic, panoptic
from .tables import ClassRow, class_table, pixels_by_name
from .voc import Voc, voc
from .writer import Writer
from .writers import WRITERS, add_to_all, build_writers, close_all
