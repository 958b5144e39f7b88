"""Labels that are no masks of class indices, read as they are: colour-coded masks, COCO's instances
and panoptic PNGs, LabelMe's JSON, YOLO's polygons. How a YAML file names them: datasets/README.md.
"""
