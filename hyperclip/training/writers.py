"""Where a training's numbers go: the log, metrics.json, TensorBoard and, if wanted, Weights &
Biases.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import uuid
from collections.abc import Collection, Mapping
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
from ..runtime.files import write_atomically

logger = logging.getLogger("hyperclip.training")

WANDB_MODES = ("online", "offline")
WINDOW = 20
"""Noisy metrics are written as the median of so many values, as Detectron2 does."""


def build_writers(cfg: CfgNode, max_iter: int) -> list[EventWriter]:
    """Writers of a run, which all write below OUTPUT_DIR; none but on the main process.

    No file is opened and no run of Weights & Biases is begun before the first write.

    Raises:
        ValueError: WANDB.PROJECT is set, and wandb is not installed or WANDB.MODE is unknown.
    """
    if not comm.is_main_process():
        return []
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    writers: list[EventWriter] = [
        CommonMetricPrinter(max_iter, WINDOW),
        MetricsFile(folder / "metrics.json", WINDOW),
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
        name = cfg.WANDB.NAME or folder.resolve().name
        writers.append(WandbWriter(folder, cfg.WANDB.PROJECT, name, config, cfg.WANDB.MODE, WINDOW))
    return writers


class MetricsFile(JSONWriter):
    """Detectron2's JSON lines, but the file is opened at the first write, so that it can be
    replaced before.

    Every write ends on the disk: it is flushed and synced.
    """

    # JSONWriter's own opens the file
    def __init__(self, path: Path, window_size: int = WINDOW) -> None:
        self._path, self._window_size, self._last_write = path, window_size, -1

    @cached_property
    def _file_handle(self) -> TextIO:
        return self._path.open("a", encoding="utf-8")

    def write(self) -> None:
        """Write what is new. What the last line of an earlier process says of the same iteration
        becomes part of its line.
        """
        if "_file_handle" not in self.__dict__:
            self._join_last_line()
        super().write()

    def _join_last_line(self) -> None:
        lines = self._path.read_bytes().splitlines() if self._path.is_file() else []
        last = json.loads(lines[-1]) if lines else {}
        iteration = last.get("iteration", -1)
        values = get_event_storage().latest_with_smoothing_hint(self._window_size)
        same = {name: value for name, (value, at) in values.items() if at == iteration}
        if not same:
            return
        joined = json.dumps(last | same, sort_keys=True).encode()
        content = b"".join(line + b"\n" for line in (*lines[:-1], joined))
        write_atomically(self._path, lambda path: path.write_bytes(content))
        self._last_write = iteration

    def close(self) -> None:
        if "_file_handle" in self.__dict__:
            self._file_handle.close()


class WandbWriter(EventWriter):
    """Sends the scalars to Weights & Biases, each with its iteration, which is the x-axis there.

    The run's id is kept in ``wandb_id.txt``: a run with the same folder continues it. Remove the
    file for a new one.

    Args:
        folder: gets the id and wandb's own files. project, name: of the run. config: keys and
            values shown with it.
        mode: "online", or "offline" for files that ``wandb sync`` sends later. window_size: see
            ``WINDOW``.
    Raises:
        ValueError: an unknown mode, or wandb is not installed.
    """

    def __init__(
        self,
        folder: Path,
        project: str,
        name: str,
        config: Mapping[str, object],
        mode: str = "online",
        window_size: int = WINDOW,
    ) -> None:
        if mode not in WANDB_MODES:
            raise ValueError(f"WANDB.MODE: got {mode!r}, expected one of {list(WANDB_MODES)}")
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                f"WANDB.PROJECT: got {project!r}, but wandb cannot be imported ({error}). Install "
                "it with 'pip install -e .[wandb]', or leave the key empty"
            ) from error
        self._wandb: Any = wandb
        self._folder, self._window_size, self._last_write = folder, window_size, -1
        self._options = {
            "project": project,
            "name": name,
            "config": dict(config),
            "mode": mode,
            "dir": str(folder),
        }

    @cached_property
    def _run(self) -> Any:
        path = self._folder / "wandb_id.txt"
        if not path.is_file():
            write_atomically(
                path, lambda p: p.write_text(uuid.uuid4().hex[:8] + "\n", encoding="utf-8")
            )
        number = path.read_text(encoding="utf-8").strip()
        run = self._wandb.init(**self._options, id=number, resume="allow", allow_val_change=True)
        # wandb's own steps never go back, which those of a resumed run may.
        run.define_metric("iteration")
        run.define_metric("*", step_metric="iteration")
        return run

    def write(self) -> None:
        """Send what is new since the last write."""
        lines: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in (
            get_event_storage().latest_with_smoothing_hint(self._window_size).items()
        ):
            if iteration > self._last_write:
                lines.setdefault(iteration, {})[name] = value
        for iteration in sorted(lines):
            self._run.log({**lines[iteration], "iteration": iteration})
            self._last_write = iteration

    def close(self) -> None:
        if "_run" in self.__dict__:
            self._run.finish()


def drop_lines_after(path: Path, iteration: int) -> int:
    """Take out of a file of JSON lines what a resumed run writes again, before anything opens it.

    Lines of this iteration and later ones go, and those that a killed process left unfinished. The
    file is replaced in one step, or left alone if there is nothing to take out; it need not exist.

    Args:
        path: ``metrics.json``. iteration: the first one that is run again.
    Returns:
        the number of lines taken out.
    """
    if not path.is_file():
        return 0
    content = path.read_bytes()
    lines = content.splitlines()
    kept = [line for line in lines if _is_before(line, iteration)]
    cleaned = b"".join(line + b"\n" for line in kept)
    if cleaned != content:
        write_atomically(path, lambda p: p.write_bytes(cleaned))
    return len(lines) - len(kept)


def is_written(path: Path, iteration: int, datasets: Collection[str]) -> bool:
    """Whether a file of JSON lines has the scores of an iteration's evaluation on all these
    datasets.
    """
    lines = path.read_bytes().splitlines() if path.is_file() else []
    found: set[str] = set()
    for line in lines:
        if _is_before(line, iteration + 1) and not _is_before(line, iteration):
            found |= {key.split("/")[0] for key in json.loads(line)}
    return set(datasets) <= found


def _is_before(line: bytes, iteration: int) -> bool:
    try:
        content = json.loads(line)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("iteration", -1) < iteration
