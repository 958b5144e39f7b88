"""All modules on systems that lack what only Linux and macOS, or only Linux, have."""

from __future__ import annotations

import subprocess
import sys

HIDDEN = """
import sys, signal, os
sys.modules["resource"] = None
for module, names in ((signal, ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGHUP", "SIGQUIT", "alarm", "setitimer", "pause")),
                      (os, ("fork", "killpg", "getloadavg"))):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""  # noqa: E501

IMPORT_ALL = """
import importlib, pkgutil
import cliper, hyperclip
names = [m.name for package in (hyperclip, cliper) for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
assert len(names) > 70, names
"""  # noqa: E501

USE = """
import torch
import hyperclip.runtime.memory as memory
from hyperclip.runtime.compat import peak_resident_bytes, stop_signals
from hyperclip.data.batches import _outlive_signals

assert stop_signals() == (signal.SIGTERM,) and peak_resident_bytes() == 0
memory.forget_peak(torch.device("cpu"))
assert memory.peak_bytes(torch.device("cpu")) >= 0
_outlive_signals(0)

def no_handle(name):
    raise TypeError("argument of type 'NoneType' is not iterable")

memory.ctypes.CDLL = no_handle
assert memory.keep_freed_memory() is False
print("done")
"""


def test_everything_is_imported_and_works_without_what_only_unix_has():
    code = HIDDEN + IMPORT_ALL + USE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr[-3000:]
