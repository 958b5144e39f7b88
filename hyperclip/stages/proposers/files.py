"""Regions that lie in files: a label map of each image, found by the image's name.

A file is a PNG of one channel, grey or with a palette, a PNG of colours whose value is R + 256 G +
65536 B (as COCO's panoptic ones), or a .npy array of integers (H, W). Pixels of one value are a
region; 0 and less are ``NO_REGION``. A .npy array of bool (R, H, W) holds masks, which may overlap,
see :func:`hyperclip.stages.regions.partition`. Shapes: R regions, H W image.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image
from scipy import ndimage
from torch import Tensor

from ...data.image_files import decode
from ...data.label_maps import read_record_label, take_half
from ...data.pairing import normal, walk
from ...results.answer import NEIGHBOURS
from ...runtime.files import need_output_folder, user_path, write_atomically
from ..regions import NO_REGION, REGIONS_REGISTRY, RecordProposer, partition

SUFFIXES = (".png", ".npy")
KEY = "TEST.REGIONS.FOLDER"


class RegionFiles(RecordProposer):
    """Reads the regions of an image from a folder.

    The file of ``…/paris/a.jpg`` is ``a.png`` or ``a.npy`` there or in a subfolder ``paris`` (or
    ``…/paris``), the longest path counts. ValueError without a folder or any file in it,
    FileNotFoundError for a folder that is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        if not folder:
            raise ValueError(f"{KEY}: got '', expected a folder of .png or .npy files of regions")
        self.folder = user_path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{KEY}: no folder {str(self.folder)!r}")
        self._files: dict[str, list[Path]] = defaultdict(list)
        for path in walk(self.folder):
            if path.suffix.lower() in SUFFIXES:
                self._files[normal(path.stem)].append(path)
        if not self._files:
            raise ValueError(f"{KEY}: got {str(self.folder)!r}, expected .png or .npy files in it")

    def path_of(self, record: Mapping[str, Any]) -> Path:
        """The file of a record's image. ValueError for a record without "file_name", or two files
        that fit; FileNotFoundError for none.
        """
        if not record.get("file_name"):
            raise ValueError(
                "regions of files: got an image without a file name, by which its regions are "
                "found. Give the image as a file, or encode(image, file_name=…)"
            )
        image = Path(record["file_name"])
        around = [normal(part) for part in image.parent.parts]
        fitting: dict[int, list[Path]] = defaultdict(list)
        for path in self._files.get(normal(image.stem), []):
            parts = [normal(part) for part in path.relative_to(self.folder).parent.parts]
            if parts == around[len(around) - len(parts) :]:
                fitting[len(parts)].append(path)
        if not fitting:
            expected = f"expected {image.stem}.png or .npy in {str(self.folder)!r}"
            raise FileNotFoundError(f"regions of {str(image)!r}: no file, {expected} ({KEY})")
        best = fitting[max(fitting)]
        if len(best) > 1:
            names = " and ".join(repr(str(path)) for path in best)
            raise ValueError(f"regions of {str(image)!r}: got {names}, expected one of them")
        return best[0]

    def check_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """See :class:`RecordProposer`: every image has its file; the first that has none is named,
        and how many more.
        """
        missing = []
        for record in records:
            try:
                self.path_of(record)
            except FileNotFoundError as error:
                missing.append(error)
        if missing:
            more = f"; and of {len(missing) - 1} more images" if len(missing) > 1 else ""
            raise FileNotFoundError(f"{missing[0]}{more}")

    def of_records(self, records: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """See :class:`RecordProposer`."""
        return [self._read(record) for record in records]

    def _read(self, record: Mapping[str, Any]) -> Tensor:
        path = self.path_of(record)
        regions = read_regions(path, record.get("max_pixels", 0))
        if "half" in record:
            regions = take_half(regions, record["half"], path)
        height, width = record["image"].shape[1:]
        size = (record.get("height", height), record.get("width", width))
        if regions.shape != size:
            got = f"got {regions.shape[1]} x {regions.shape[0]} pixels"
            expected = f"expected {size[1]} x {size[0]}, as {str(record['file_name'])!r} has"
            raise ValueError(f"regions {str(path)!r}: {got}, {expected}")
        return torch.from_numpy(regions)


def read_regions(path: Path, max_pixels: int = 0) -> np.ndarray:
    """The regions in a file, int64 (H, W), 0..R-1 or ``NO_REGION``; ValueError for another kind of
    image or array, or a file that cannot be read; ``max_pixels`` as for :func:`decode`.
    """
    values = _array(path) if path.suffix.lower() == ".npy" else _picture(path, max_pixels)
    if values.dtype == bool and values.ndim == 3:
        values = partition(torch.from_numpy(values)).numpy() + 1
    if values.ndim != 2 or not values.size or values.dtype.kind not in "iub":
        got = f"got {values.dtype} {values.shape}"
        expected = "expected integers (H, W) of which 0 is no region, or masks, bool (R, H, W)"
        raise ValueError(f"regions {str(path)!r}: {got}, {expected}")
    covered = values > 0
    regions = np.full(values.shape, NO_REGION, np.int64)
    regions[covered] = np.unique(values[covered], return_inverse=True)[1]
    return regions


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy raises errors of many kinds for damaged files
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"regions {str(path)!r} cannot be read ({reason})") from error


def _picture(path: Path, max_pixels: int) -> np.ndarray:
    file = decode(path, "regions", max_pixels)
    if file.format != "PNG" or file.image.mode in ("LA", "PA", "RGBA"):
        got = f"got {file.format} of mode {file.image.mode}"
        raise ValueError(f"regions {str(path)!r}: {got}, expected a PNG without transparency")
    values = np.asarray(file.image)
    return values if values.ndim == 2 else values.astype(np.int64) @ [1, 256, 65536]


@REGIONS_REGISTRY.register()
def files(cfg: CfgNode) -> RegionFiles:
    """Build from TEST.REGIONS.FOLDER."""
    return RegionFiles(cfg.TEST.REGIONS.FOLDER)


def save_label_regions(records: Sequence[Mapping[str, Any]], folder: str | Path) -> int:
    """Write the connected regions of a dataset's labels as files for :class:`RegionFiles`: the best
    regions that there can be, which tell what better ones would bring. Pixels that do not count
    have none. They lie in folders as the images do, so that several datasets may share one. Returns
    how many files there are.

    Raises:
        OSError: nothing can be written. ValueError: two images of one name, and what
            :func:`read_record_label` raises.
    """
    root = user_path(folder)
    need_output_folder(root, "folder")
    written: dict[Path, str] = {}
    for record in records:
        name = str(record["file_name"])
        target = root / _place_of(record).with_suffix(".png")
        if written.get(target) == name:
            continue  # the other half of an image
        if target in written:
            both = f"{written[target]!r} and {name!r}"
            raise ValueError(f"regions: {both} would have the one file {str(target)!r}")
        written[target] = name
        whole = {key: value for key, value in record.items() if key != "half"}
        parts = connected(read_record_label(whole), record["label_map"].ignore)
        write_atomically(target, partial(_picture_of(parts).save, format="PNG"))
    return len(written)


def _place_of(record: Mapping[str, Any]) -> Path:
    """An image's name with the folders around it: as many as its "image_id" has, two or more."""
    path = Path(record["file_name"])
    folders = path.parent.relative_to(path.anchor).parts
    depth = max(2, len(Path(str(record.get("image_id", ""))).parent.parts))
    return Path(*folders[-depth:], path.name)


def connected(labels: np.ndarray, ignore: int) -> np.ndarray:
    """The connected parts of each class of labels (H, W), int32 from 1 on, and 0 where they are
    ``ignore``.
    """
    regions, count = np.zeros(labels.shape, np.int32), 0
    for category in np.unique(labels[labels != ignore]).tolist():
        numbered, parts = ndimage.label(labels == category, structure=NEIGHBOURS)
        regions += np.where(numbered > 0, numbered + count, 0)
        count += parts
    return regions


def _picture_of(regions: np.ndarray) -> Image.Image:
    if regions.max(initial=0) <= 65535:
        return Image.fromarray(regions.astype(np.uint16))
    colours = [regions >> shift & 255 for shift in (0, 8, 16)]
    return Image.fromarray(np.stack(colours, axis=-1).astype(np.uint8))
