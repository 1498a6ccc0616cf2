"""Waiting for the server in a way that Ctrl-C, or a notebook's stop button, can end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import adbc_driver_manager.dbapi as adbc

T = TypeVar("T")

# The driver manager's own means, not public: where a later version has moved it, an interrupt waits.
_blocking_call: Callable[..., Any] | None = getattr(adbc, "_blocking_call", None)


def interruptible(call: Callable[[], T], cancel: Callable[[], None]) -> T:
    """What ``call`` gives; an interrupt meanwhile runs ``cancel``, which ends the call at the server too.

    Raises:
        KeyboardInterrupt: There was an interrupt.
    """
    if _blocking_call is None:
        return call()
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        cancel()

    try:
        result: T = _blocking_call(call, (), {}, interrupt)
    except BaseException:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    if interrupted:
        raise KeyboardInterrupt
    return result
