"""A bound on the memory of Arrow, which reads uploads before anything of ours sees them.

A message of a hundred kilobytes may claim, and with zstd even hold, gigabytes; Arrow unpacks it whole. Its
allocator (mimalloc) can be told to take no more from the system than one reserved range of addresses: what
does not fit is refused as too large, where otherwise the machine would run out of memory and kill the server.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SHARE = 4  # the engine takes up to 80 % for itself
_LEAST_BYTES = 1 << 30
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
_STRICT = "2"


def bound_arrow_memory() -> None:
    """Let Arrow take a quarter of the memory, at least 1 GiB. Without effect once Arrow is loaded.

    MIMALLOC_RESERVE_OS_MEMORY in the environment sets another amount. Where the system promises no more
    memory than it has (overcommit off), reserving would take it from others, so Arrow stays unbounded.
    """
    if "pyarrow" in sys.modules or _text(_OVERCOMMIT) == _STRICT:
        return
    amount = max(_LEAST_BYTES, _memory_bytes() // _SHARE)
    os.environ.setdefault("MIMALLOC_RESERVE_OS_MEMORY", f"{amount >> 20}MiB")
    os.environ.setdefault("MIMALLOC_LIMIT_OS_ALLOC", "1")
    # What is refused is told to the client; mimalloc would write to the log besides.
    os.environ.setdefault("MIMALLOC_SHOW_ERRORS", "0")


def _memory_bytes() -> int:
    """Memory of the machine, or of the container where that has less."""
    limits = [int(text) for text in map(_text, _CGROUP_LIMITS) if text.isdigit()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
