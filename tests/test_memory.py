"""How much is handled at a time, and that freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys

import torch
from hyperclip.memory import CACHED, items_at_a_time, keep_freed_memory

CHURN = """
import resource, torch
from hyperclip.memory import keep_freed_memory
kept = {keep} and keep_freed_memory()
def step():
    parts = [torch.ones(2**21) for _ in range(4)]  # 8 MB each
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_items_fit_a_cache_and_are_never_none():
    cpu = torch.device("cpu")
    assert items_at_a_time(CACHED // 8, cpu) == 8
    assert items_at_a_time(10 * CACHED, cpu) == 1


def test_freed_memory_is_not_fetched_again():
    """Page faults of a process: thousands for each step by itself, next to none with kept memory."""
    faults = {}
    for keep in (False, True):
        done = subprocess.run([sys.executable, "-c", CHURN.format(keep=keep)], capture_output=True, text=True, timeout=300)
        kept, count = done.stdout.split()
        faults[kept] = int(count)
    if "True" in faults:  # elsewhere than with glibc nothing can be set, which the function says
        assert faults["True"] * 4 < faults["False"]
    else:
        assert not keep_freed_memory()
