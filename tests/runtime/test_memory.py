"""How much is handled at a time, and that freed memory stays with the process."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch
from hyperclip.runtime.memory import CACHED, items_at_a_time

FREE_ONE = """
import ctypes, torch
from hyperclip.runtime.memory import keep_freed_memory

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2

def held():  # bytes this process has from the system for its blocks, in use or free
    return mallinfo2().arena + mallinfo2().hblkhd

if {keep}:
    assert keep_freed_memory()
block = torch.ones(31 * 2**18)  # 31 MB
before = held()
del block
print((before - held()) >> 20)
"""  # noqa: E501


def test_items_fit_a_cache_and_are_never_none():
    cpu = torch.device("cpu")
    assert items_at_a_time(CACHED // 8, cpu) == 8 * torch.get_num_threads()
    assert items_at_a_time(10_000 * CACHED, cpu) == 1


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="mallinfo2 came with glibc 2.33"
)
def test_freed_memory_stays_with_the_process():
    """Megabytes that go back to the system when a tensor of 31 is freed: none if told so, all of
    them by itself.
    """
    returned = {}
    for keep in (False, True):
        command = [sys.executable, "-c", FREE_ONE.format(keep=keep)]
        returned[keep] = int(
            subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
        )
    assert returned == {False: 31, True: 0}


RETURNED = """
import re, torch
from pathlib import Path
from hyperclip.runtime.memory import give_back_freed_memory, keep_freed_memory

def resident():
    return int(re.search(r"VmRSS:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

keep_freed_memory()
blocks = [torch.ones(2**18) for _ in range(100)]  # 1 MB each
before = resident()
del blocks
kept = before - resident()
assert give_back_freed_memory()
print(kept, before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="malloc_trim is glibc's")
def test_freed_memory_goes_back_when_asked():
    done = subprocess.run(
        [sys.executable, "-c", RETURNED], capture_output=True, text=True, check=True
    )
    kept, returned = map(int, done.stdout.split())
    assert kept < 20 and returned > 80
