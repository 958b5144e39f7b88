"""Programs in processes that have the libraries imported already, which saves seconds for each.

Python's fork server, one for each of pytest's workers, imports :mod:`tests.helpers.libraries` once;
every program then runs in a fork of it, with its own arguments, environment and streams, and so do
the processes that it starts itself with ``launch``, which are spawned otherwise.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch.multiprocessing as tmp

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.helpers.libraries"])


def run_program(
    *arguments: object, environment: Mapping[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run([sys.executable, *arguments])`` with captured text.

    Args:
        arguments: a script or ``-m`` and a module, then the program's own.
        environment: as ``env`` there.
        timeout: seconds.
    Raises:
        subprocess.TimeoutExpired: the program has been killed.
    """
    command = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        process = FORKS.Process(
            target=_run, args=(command, dict(environment or os.environ), os.getcwd(), streams)
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout)
        output, errors = (path.read_text(encoding="utf-8") for path in streams)
        return subprocess.CompletedProcess(command, process.exitcode or 0, output, errors)


def _run(command: list[str], environment: dict[str, str], folder: str, streams: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.stdin = open(os.devnull)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    tmp.start_processes = functools.partial(tmp.start_processes, start_method="fork")
    sys.path[:0] = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).resolve().parent))
        runpy.run_path(command[0], run_name="__main__")
