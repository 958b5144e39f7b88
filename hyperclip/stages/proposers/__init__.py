"""Proposers of regions, by the values of TEST.REGIONS.NAME: superpixels, files, sam, sam2, eomt."""

from .eomt import EomtMasks
from .files import RegionFiles, save_label_regions
from .sam import MaskRules, SamMasks
from .superpixels import Superpixels
