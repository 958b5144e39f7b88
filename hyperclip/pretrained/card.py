"""The model card: what a saved model is, what it was trained on, and how to load it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..runtime.files import local_path
from ..segmenter import Description, Segmenter
from ..vocabulary import Vocabulary

LIBRARY = "hyperclip"
UNKNOWN_FIGURES = (
    "No figures were given when it was saved. This measures it on any dataset that the library "
    "knows, and names the protocol beside the figures:\n\n"
    "```bash\n"
    "hyperclip-train --eval-only --config-file FOLDER/config.yaml DATASETS.TEST \"['DATASET']\"\n"
    "```"
)
SHOWN_CLASSES = 30


def model_card(
    model: Segmenter,
    cfg: CfgNode,
    name: str,
    only: str,
    measured: str,
    vocabulary: Vocabulary | None,
) -> str:
    """The text of README.md, with the hub's metadata in front."""
    told = model.describe()
    sections = [
        _front_matter(model, told),
        f"# {_line(name)}",
        _what_it_is(model, told),
        "## Training",
        _training(model, cfg),
        "## Figures",
        measured.strip() or UNKNOWN_FIGURES,
        "## Use",
        _use(name),
        "## Files",
        _files(model, only, vocabulary),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(model: Segmenter, told: Description) -> str:
    tags = ["open-vocabulary-segmentation", "semantic-segmentation", told.system.lower()]
    metadata: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": "image-segmentation",
        "tags": tags,
    }
    if model.trained_on:
        metadata["datasets"] = list(model.trained_on)
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---"


def _what_it_is(model: Segmenter, told: Description) -> str:
    count = sum(parameter.numel() for parameter in model.parameters())
    method = f", method {told.method}" if told.method else ""
    clip = _line(_name(told.backbone))
    return (
        "Open-vocabulary semantic segmentation: every pixel of an image gets one of the names that "
        f"you type. System {told.system}{method}, CLIP model `{clip}`, {count:,} parameters in "
        f"all.\n\n{_table(told)}"
    )


def _table(told: Description) -> str:
    rows = [f"| {key} | `{_line(value)}` |" for key, value in told.settings.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def _training(model: Segmenter, cfg: CfgNode) -> str:
    if not model.takes_checkpoint:
        return "Nothing of it was trained here: the system combines models as they were published."
    trained = ", ".join(f"`{_line(name)}`" for name in model.trained_on)
    head = cfg.MODEL.SEM_SEG_HEAD
    if not trained:
        return (
            f"What trains in CLIP is `{_line(head.CLIP_FINETUNE)}`. Its checkpoint does not say "
            "on which datasets it was trained."
        )
    return (
        f"Trained on {trained}; what trains in CLIP is `{_line(head.CLIP_FINETUNE)}`. The values "
        "of the recipe are in `config.yaml`."
    )


def _use(name: str) -> str:
    return (
        "```python\n"
        "from hyperclip import Predictor\n\n"
        f"predictor = Predictor.from_pretrained({name!r})  # a folder, or OWNER/NAME on the hub\n"
        'predictor.set_image("photo.jpg")\n'
        'prediction = predictor.predict("dog; road; sky")\n'
        "```"
    )


def _files(model: Segmenter, only: str, vocabulary: Vocabulary | None) -> str:
    lines = ["- `config.yaml`: the model, as every program takes it (`--config-file`)"]
    if not model.takes_checkpoint:
        lines.append(
            "- weights: those that were local files lie in `files`; published models keep their "
            "names in `config.yaml`, and are fetched once"
        )
    elif only:
        lines.append(
            "- `model.safetensors`: what training changed; CLIP itself is fetched once, as "
            "`config.yaml` says"
        )
    else:
        lines.append("- `model.safetensors`: all weights")
    if vocabulary is not None:
        lines.append(f"- `vocabulary.json`: {_classes(vocabulary.names)}")
    return "\n".join(lines)


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(_line(name) for name in names[:SHOWN_CLASSES])
    more = f", and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    return f"{len(names)} classes: {shown}{more}"


def _name(backbone: str) -> str:
    """A CLIP model's name; of a folder its last part, since others do not have the folder."""
    return Path(backbone).name if local_path(backbone).exists() else backbone


def _line(value: Any) -> str:
    """A value inside a line or a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")
