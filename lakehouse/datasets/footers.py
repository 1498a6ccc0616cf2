"""The footers of many Parquet objects, read side by side."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lakehouse.catalog.parquet_footer import Footer, FooterError, read_footer
from lakehouse.errors import ObjectNotFound
from lakehouse.storage import Bucket

__all__ = ["Finding", "Footer", "read_footers"]

PARALLEL = 16
# Footers that are read ahead of what is asked for: so many times those that are read at once.
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one object, or with a dataset as a whole.

    Attributes:
        problem: One word for it, such as ``missing`` or ``corrupt``.
        detail: In words.
        key: The object; empty where no single one is concerned.
    """

    problem: str
    detail: str
    key: str = ""


def read_footers(
    bucket: Bucket,
    keys: Iterable[str],
    check: Callable[[], None] | None = None,
    parallel: int = PARALLEL,
) -> Iterator[Footer | Finding]:
    """The footers of objects in the order of their keys, and what is wrong with those that have none.

    Not more than a few for each of the readers are held at once, however many keys there are.

    Args:
        bucket: Where the objects are.
        keys: Their keys.
        check: Raises where reading has to stop; called once for each object.
        parallel: How many are read at once.

    Raises:
        StorageError: The bucket cannot be read.
    """
    waiting: deque[Future[Footer | Finding]] = deque()
    remaining = iter(keys)
    with ThreadPoolExecutor(parallel, "footers") as readers:
        try:
            for key in remaining:
                waiting.append(readers.submit(contextvars.copy_context().run, _read, bucket, key))
                if len(waiting) >= parallel * _AHEAD:
                    yield _next(waiting, check)
            while waiting:
                yield _next(waiting, check)
        finally:
            for future in waiting:
                future.cancel()


def _next(waiting: deque[Future[Footer | Finding]], check: Callable[[], None] | None) -> Footer | Finding:
    if check is not None:
        check()
    return waiting.popleft().result()


def _read(bucket: Bucket, key: str) -> Footer | Finding:
    try:
        return read_footer(bucket, key)
    except FooterError as error:
        return Finding(error.problem, error.detail, key)
    except ObjectNotFound:
        return Finding("missing", "there is no such object", key)
