"""Freed memory stays with a process that asks for it."""

import os
import subprocess
import sys

import pytest

from saltray.training.host_memory import keep_freed_memory

FAULTS = """
import sys
from resource import RUSAGE_SELF, getrusage
import torch
from saltray.training.host_memory import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for count in range(25):
    if count == 20:
        before = getrusage(RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Page faults of five tensors of 64 MiB, each freed before the next, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS, mode]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="not glibc")
def test_freed_memory_is_reused_without_page_faults() -> None:
    pages = 5 * 64 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert faults("keep") < pages / 50 < faults("default")


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise ValueError(name)

    monkeypatch.setattr(os, "confstr", unknown)
    assert not keep_freed_memory()
