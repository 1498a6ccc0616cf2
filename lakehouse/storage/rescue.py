"""Copies of objects in the rescue bucket, which are read when a bucket itself does not give them.

The rescue bucket holds the object ``k`` of the bucket ``b`` as ``b/k``. Two kinds of reads turn to it:

- Of an object that something refers to and that never changes, its copy is as good as itself.
- Which objects there are, and so which version of a table is the current one, may have changed since it was
  copied. Such reads need a ``RescueUse`` that allows them: that of a call which only reads. A write is never
  based on them.

Nothing is ever written in place of another bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from lakehouse.errors import LakehouseError


@dataclass(eq=False, slots=True)
class RescueUse:
    """What a call took from the rescue bucket.

    Attributes:
        may_be_old: Whether the call may see tables as they were when they were copied: it only reads.
        buckets: The names of the buckets whose objects it was that did not come from there.
    """

    may_be_old: bool = False
    buckets: dict[str, None] = field(default_factory=dict)


_use: ContextVar[RescueUse | None] = ContextVar("lakehouse_rescue", default=None)


def watch(use: RescueUse) -> RescueUse:
    """Note in ``use`` what this context takes from the rescue bucket from now on."""
    _use.set(use)
    return use


def used() -> tuple[str, ...]:
    """The buckets in whose place this context has read the rescue bucket so far, sorted."""
    use = _use.get()
    return tuple(sorted(use.buckets)) if use is not None and use.buckets else ()


def note(*buckets: str) -> None:
    """The rescue bucket was read in place of these."""
    use = _use.get()
    if use is not None:
        use.buckets.update(dict.fromkeys(buckets))


def may_be_old() -> bool:
    """Whether what is going on may see tables as they were when they were copied."""
    use = _use.get()
    return use is not None and use.may_be_old


@contextmanager
def reading() -> Iterator[None]:
    """What is done within only reads."""
    use = _use.get()
    if use is None or use.may_be_old:
        yield
        return
    use.may_be_old = True
    try:
        yield
    finally:
        use.may_be_old = False


@dataclass(frozen=True, slots=True)
class RescueRead:
    """An object, or list of objects, that was taken from the rescue bucket.

    Attributes:
        bucket: The bucket that did not give it.
        key: Its key there, or the prefix that was listed.
        operation: What was asked for.
        rescue: The name of the rescue bucket.
        cause: Why the bucket itself did not give it.
    """

    bucket: str
    key: str
    operation: str
    rescue: str
    cause: LakehouseError
