#!/usr/bin/env python
"""Convert Pascal Context's labels of all 459 classes for the validation images: 16 bits, 0..458,
and 65535 for nothing.

    python datasets/prepare_pascal_context_459.py

Reads VOCdevkit/VOC2010/trainval/*.mat for the ids in VOCdevkit/VOC2010/pascalcontext_val.txt, or,
where that list is absent, for the validation images of trainval_merged.json; writes
VOCdevkit/VOC2010/annotations_detectron2/pc459_val/*.tif.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import scipy.io
from hyperclip.data import label_conversion as prep
from hyperclip.data.index_files import need, read_index
from hyperclip.data.pairing import read_list
from hyperclip.runtime.program import run_program

IMAGES = (5104, 5105)
HELP = "Unpack https://roozbehm.info/pascal-context/trainval.tar.gz there, see datasets/README.md"
LIST_HELP = "One of these has to name the validation images, see datasets/README.md"


def convert(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: does not exist")
    try:
        label_map = scipy.io.loadmat(path, appendmat=False, variable_names=["LabelMap"])["LabelMap"]
    except Exception as error:  # scipy raises what its decoders trip over
        problem = f"expected a MATLAB file with a LabelMap, which cannot be read ({error!r})"
        raise ValueError(f"{path}: {problem}") from error
    return prep.context459_labels(label_map)


def validation_ids(folder: Path) -> list[str]:
    """Names without suffix, each once."""
    listed, merged = folder / "pascalcontext_val.txt", folder / "trainval_merged.json"
    if listed.is_file():
        lines = [line.replace("\\", "/").split()[0] for line in read_list(listed)]
        return list(dict.fromkeys(Path(line.removesuffix(".jpg")).name for line in lines))
    if not merged.is_file():
        raise FileNotFoundError(f"neither {str(listed)!r} nor {str(merged)!r} exists. {LIST_HELP}")
    images = read_index(merged, images={"file_name": str, "phase": str})["images"]
    return [Path(image["file_name"]).stem for image in images if image["phase"] == "val"]


def prepare(root: Path) -> prep.Counts:
    """Convert the validation images; OSError or ValueError if a source is missing or damaged."""
    folder = root / "VOCdevkit/VOC2010"
    source, target = need(folder / "trainval", HELP), folder / "annotations_detectron2/pc459_val"
    paths = [source / f"{name}.mat" for name in validation_ids(folder)]
    jobs = [prep.Job(str(p), (target / f"{p.stem}.tif",), partial(convert, p)) for p in paths]
    return prep.convert_files(jobs, target)


def main() -> None:
    root = prep.preparation_parser(__doc__).parse_args().root
    print(prepare(root).report(*IMAGES))


if __name__ == "__main__":
    run_program(main)
