"""Checkpoints for handing on: the model alone, in half precision, as safetensors.

What a checkpoint says besides (settings, datasets it was trained on) is in the file's metadata, as
JSON, which :func:`hyperclip.checkpoints.checkpointer.read_checkpoint` reads.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..runtime.files import write_atomically
from .checkpointer import DESCRIBED, read_checkpoint


def shrink_checkpoint(source: str | Path, target: str | Path) -> None:
    """Write a checkpoint's model in float16; ValueError for weights that it cannot hold, and as
    :func:`read_checkpoint`.
    """
    content = read_checkpoint(source)
    state = {name: value.contiguous() for name, value in content["model"].items()}
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = value.half()
            if not state[name].isfinite().all():
                raise ValueError(
                    f"checkpoint {source}: {name} reaches {value.abs().max():g}, expected finite "
                    f"values of at most {torch.finfo(torch.float16).max:g}, as float16 holds"
                )
    notes = {name: json.dumps(content[name]) for name in DESCRIBED if name in content}
    write_atomically(Path(target), lambda file: save_file(state, file, metadata=notes))
