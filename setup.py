"""Package metadata. Nothing here imports torch, so that building needs no heavy dependency."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

setup(
    name="hyperclip",
    version="0.1.0",
    description="HyperCLIP and CLIPer: open-vocabulary semantic segmentation on Detectron2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["hyperclip", "hyperclip.*", "cliper", "cliper.*"]),
    package_data={
        "hyperclip.data": ["*.json"],
        "hyperclip.evaluation": ["*.json"],
        "hyperclip.vocabulary": ["lists/*.json"],
    },
    # Detectron2 is not on PyPI under its own name: tools/setup.sh installs it, or use your own build.
    install_requires=[
        "torch>=2.4",
        "torchvision",
        "numpy>=1.26",
        "open_clip_torch>=3.2",
        "geoopt>=0.5",
        "fvcore",
        "iopath",
        "yacs",
        "omegaconf<2.4",
        "hydra-core",
        "cloudpickle",
        "tabulate",
        "termcolor",
        "matplotlib",
        "tensorboard",
        "pycocotools",
        "opencv-python-headless",
        "pillow",
        "safetensors",
        "huggingface_hub",
        "tqdm",
        "scipy",
        "pyyaml",
        # Detectron2's model_zoo still imports pkg_resources, gone from setuptools 82.
        "setuptools<82",
    ],
    extras_require={
        "demo": ["gradio"],
        "diffusion": ["diffusers", "transformers", "accelerate"],
        "wandb": ["wandb"],
        "dev": ["mypy", "pytest", "ruff", "selenium", "types-PyYAML", "types-tabulate"],
    },
)
