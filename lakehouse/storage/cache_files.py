"""Files of the object cache: the directory that a process has for itself, and checksums of what is in it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from lakehouse.errors import ConfigError

_BLOCK_BYTES = 1024 * 1024
_MOST_PROCESSES = 64
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


def take_directory(wanted: Path | None) -> tuple[Path, int]:
    """A directory that no other process uses, with ``objects``, ``sums`` and an empty ``partial`` in it.

    Args:
        wanted: What it is to be in; None takes the user's cache directory.

    Returns:
        The directory, and the descriptor that holds its lock.

    Raises:
        ConfigError: It cannot be made, or others may write to it.
    """
    parent = wanted or _default_directory()
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = parent.stat()
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise ConfigError(
                f"cache.directory = {str(parent)!r} cannot be used: others may write to it",
                "name a directory of the server's own user",
            )
        root, lock = _taken(parent)
        for name in ("objects", "sums"):
            (root / name).mkdir(mode=0o700, exist_ok=True)
        shutil.rmtree(root / "partial", ignore_errors=True)
        (root / "partial").mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(f"cache.directory = {str(parent)!r} cannot be used: {error.strerror}") from error
    return root, lock


def _default_directory() -> Path:
    base = os.environ.get("CACHE_DIRECTORY") or os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "lakehouse" if base else Path.home() / ".cache" / "lakehouse"


def _taken(parent: Path) -> tuple[Path, int]:
    """The first directory that no process has, and the descriptor that holds its lock."""
    for number in range(_MOST_PROCESSES):
        root = parent / str(number)
        root.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(root / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return root, descriptor
    raise ConfigError(f"cache.directory = {str(parent)!r} is used by {_MOST_PROCESSES} processes already")


def write_at(descriptor: int, content: memoryview, offset: int) -> None:
    """Write all of some bytes at a place of a file."""
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _blocks(descriptor: int, size: int) -> Iterator[bytes]:
    offset = 0
    while offset < size:
        block = os.pread(descriptor, _BLOCK_BYTES, offset)
        if not block:
            return
        yield block
        offset += len(block)


def checksums(descriptor: int, size: int, md5: bool = False) -> tuple[str, str]:
    """What is kept beside a copy, and its MD5 sum if that is asked for."""
    crc, digest = 0, hashlib.md5(usedforsecurity=False)
    for block in _blocks(descriptor, size):
        crc = zlib.crc32(block, crc)
        if md5:
            digest.update(block)
    return f"crc32 {crc:08x} {size}\n", digest.hexdigest() if md5 else ""


def md5_of(e_tag: str) -> str:
    """The MD5 sum that an ETag is, or may be; empty for one that is none, as of a multipart upload."""
    found = _MD5.fullmatch(e_tag)
    return found[1] if found else ""
