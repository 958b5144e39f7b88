"""Where a training's numbers go: log, metrics.json, TensorBoard, and Weights & Biases if wanted."""

import importlib.util
import json
import logging
import uuid
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm, events

from ..config import plain_settings
from ..runtime.extras import how_to_install
from ..runtime.files import write_atomically, write_text

logger = logging.getLogger("hyperclip.training")

WINDOW = 20
"""Noisy metrics are written as the median of this many values, as in Detectron2."""


def build_writers(cfg: CfgNode, max_iter: int) -> list[events.EventWriter]:
    """Writers of a run, all below OUTPUT_DIR, on the main process alone. No file is opened, and no
    run of Weights & Biases begun, before the first write; ValueError if it is wanted, but absent.
    """
    if not comm.is_main_process():
        return []
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    writers: list[events.EventWriter] = [events.CommonMetricPrinter(max_iter, WINDOW)]
    writers.append(MetricsFile(folder / "metrics.json"))
    if importlib.util.find_spec("tensorboard"):
        writers.append(events.TensorboardXWriter(str(folder), WINDOW))
    else:
        logger.warning(
            "No curves for TensorBoard are written: it is not installed. To have them: pip install "
            "tensorboard"
        )
    if cfg.WANDB.PROJECT:
        options = {"name": cfg.WANDB.NAME or folder.resolve().name, "mode": cfg.WANDB.MODE}
        settings = plain_settings(cfg)
        writers.append(WandbWriter(folder, cfg.WANDB.PROJECT, config=settings, **options))
    return writers


class MetricsFile(events.JSONWriter):
    """Detectron2's JSON lines; opened at each write, so that a resumed run can replace it."""

    def __init__(self, path: Path) -> None:  # JSONWriter's own opens the file
        self._path, self._window_size, self._last_write = path, WINDOW, -1

    def write(self) -> None:
        """Write what is new; what belongs to the iteration of the file's last line joins it."""
        if self._last_write < 0:
            self._join_last_line()
        with self._path.open("a", encoding="utf-8") as self._file_handle:
            super().write()

    def _join_last_line(self) -> None:
        lines = _lines(self._path)
        last = json.loads(lines[-1]) if lines else {}
        iteration = last.get("iteration", -1)
        values = events.get_event_storage().latest_with_smoothing_hint(self._window_size)
        same = {name: value for name, (value, at) in values.items() if at == iteration}
        if same:
            _replace(self._path, [*lines[:-1], json.dumps(last | same, sort_keys=True).encode()])
            self._last_write = iteration

    def close(self) -> None:
        """Nothing is open between two writes."""


class WandbWriter(events.EventWriter):
    """Sends the scalars to Weights & Biases, each with its iteration, the x-axis there.

    The run's id is kept in the folder's ``wandb_id.txt``, so that a run there continues it; remove
    the file for a new one. ``options`` are those of ``wandb.init``. ValueError without wandb.
    """

    def __init__(self, folder: Path, project: str, **options: Any) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                f"WANDB.PROJECT: got {project!r}, but wandb cannot be imported ({error}). Install "
                f"it, {how_to_install('wandb')}, or leave the key empty"
            ) from error
        self._wandb, self._folder, self._last_write = wandb, folder, -1
        self._options: dict[str, Any] = {"project": project, "dir": str(folder), **options}

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
        latest = events.get_event_storage().latest_with_smoothing_hint(WINDOW)
        iterations = {iteration for _, iteration in latest.values()}
        for new in sorted(i for i in iterations if i > self._last_write):
            values = {name: value for name, (value, at) in latest.items() if at == new}
            self._run.log({**values, "iteration": new})
            self._last_write = new

    def close(self) -> None:
        if "_run" in self.__dict__:
            self._run.finish()


def drop_lines_after(path: Path, iteration: int) -> int:
    """Remove from ``metrics.json`` what a run that is resumed at ``iteration`` will write again:
    the lines of this iteration and later, and those that a killed process left unfinished.

    The file, which need not exist, is replaced in one step, and only if it changes. Returns the
    number of lines removed.
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
