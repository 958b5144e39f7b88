"""Where a training's numbers go: log, metrics.json, TensorBoard, and Weights & Biases if wanted."""

from __future__ import annotations

import importlib.util
import json
import logging
import uuid
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from ..config import flat_config
from ..runtime.files import write_atomically, write_text

logger = logging.getLogger("hyperclip.training")

WINDOW = 20
"""Noisy metrics are written as the median of this many values, as in Detectron2."""


def build_writers(cfg: CfgNode, max_iter: int) -> list[EventWriter]:
    """Writers of a run, all below OUTPUT_DIR; only the main process gets any.

    No file is opened, and no run of Weights & Biases begun, before the first write.

    Raises:
        ValueError: WANDB.PROJECT is set, and wandb is not installed.
    """
    if not comm.is_main_process():
        return []
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    writers: list[EventWriter] = [
        CommonMetricPrinter(max_iter, WINDOW),
        MetricsFile(folder / "metrics.json"),
    ]
    if importlib.util.find_spec("tensorboard"):
        writers.append(TensorboardXWriter(str(folder), WINDOW))
    else:
        logger.warning(
            "No curves for TensorBoard are written: it is not installed. To have them: pip install "
            "tensorboard"
        )
    if cfg.WANDB.PROJECT:
        config = dict(flat_config(yaml.safe_load(cfg.dump())))
        options = {"name": cfg.WANDB.NAME or folder.resolve().name, "mode": cfg.WANDB.MODE}
        writers.append(WandbWriter(folder, cfg.WANDB.PROJECT, config=config, **options))
    return writers


class MetricsFile(JSONWriter):
    """Detectron2's JSON lines, synced to the disk at every write.

    The file is opened at the first write only, so that a resumed run can replace it before.
    """

    def __init__(self, path: Path) -> None:  # JSONWriter's own opens the file
        self._path, self._window_size, self._last_write = path, WINDOW, -1
        self._file_handle: TextIO | None = None

    def write(self) -> None:
        """Write what is new; what belongs to the iteration of the file's last line joins it."""
        if self._file_handle is None:
            self._join_last_line()
            self._file_handle = self._path.open("a", encoding="utf-8")
        super().write()

    def _join_last_line(self) -> None:
        lines = _lines(self._path)
        last = json.loads(lines[-1]) if lines else {}
        iteration = last.get("iteration", -1)
        values = get_event_storage().latest_with_smoothing_hint(self._window_size)
        same = {name: value for name, (value, at) in values.items() if at == iteration}
        if same:
            _replace(self._path, [*lines[:-1], json.dumps(last | same, sort_keys=True).encode()])
            self._last_write = iteration

    def close(self) -> None:
        if self._file_handle is not None:
            self._file_handle.close()


class WandbWriter(EventWriter):
    """Sends the scalars to Weights & Biases, each with its iteration, the x-axis there.

    The run's id is kept in ``wandb_id.txt``, so that a run in the same folder continues it. Remove
    the file for a new one.

    Args:
        folder: gets the id and wandb's own files.
        project, options: of ``wandb.init``, such as name, config and mode.
    Raises:
        ValueError: wandb is not installed.
    """

    def __init__(self, folder: Path, project: str, **options: Any) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                f"WANDB.PROJECT: got {project!r}, but wandb cannot be imported ({error}). Install "
                "it with 'pip install -e .[wandb]', or leave the key empty"
            ) from error
        self._wandb: Any = wandb
        self._folder, self._last_write = folder, -1
        self._options = {"project": project, "dir": str(folder), **options}

    @cached_property
    def _run(self) -> Any:
        path = self._folder / "wandb_id.txt"
        if not path.is_file():
            write_text(path, uuid.uuid4().hex[:8] + "\n")
        number = path.read_text(encoding="utf-8").strip()
        run = self._wandb.init(**self._options, id=number, resume="allow", allow_val_change=True)
        # wandb's own steps never go back, which those of a resumed run may
        run.define_metric("iteration")
        run.define_metric("*", step_metric="iteration")
        return run

    def write(self) -> None:
        """Send what is new since the last write."""
        lines: dict[int, dict[str, float]] = {}
        latest = get_event_storage().latest_with_smoothing_hint(WINDOW)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                lines.setdefault(iteration, {})[name] = value
        for iteration in sorted(lines):
            self._run.log({**lines[iteration], "iteration": iteration})
            self._last_write = iteration

    def close(self) -> None:
        if "_run" in self.__dict__:
            self._run.finish()


def drop_lines_after(path: Path, iteration: int) -> int:
    """Remove from ``metrics.json`` what a run that is resumed at ``iteration`` will write again.

    These are the lines of this iteration and later, and those that a killed process left
    unfinished. The file, which need not exist, is replaced in one step, and only if it changes.

    Returns:
        the number of lines removed.
    """
    lines = _lines(path)
    kept = [line for line in lines if (at := _iteration(line)) is not None and at < iteration]
    if lines and b"".join(line + b"\n" for line in kept) != path.read_bytes():
        _replace(path, kept)
    return len(lines) - len(kept)


def is_written(path: Path, iteration: int, datasets: Collection[str]) -> bool:
    """Whether a file of JSON lines has an iteration's evaluation scores on all these datasets."""
    lines = [json.loads(line) for line in _lines(path) if _iteration(line) == iteration]
    return set(datasets) <= {key.split("/")[0] for line in lines for key in line}


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.is_file() else []


def _replace(path: Path, lines: list[bytes]) -> None:
    content = b"".join(line + b"\n" for line in lines)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _iteration(line: bytes) -> int | None:
    """The iteration of a JSON line, -1 if it names none; None if the line is damaged."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content.get("iteration", -1) if isinstance(content, dict) else None
