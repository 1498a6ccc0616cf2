"""Traces, as the domain sees them: parts of a call are named and timed, whoever collects them.

The current span is kept in a context variable. Where nobody traces there is none, and ``span`` gives one
shared object that does nothing, so that instrumented code costs next to nothing. What a span is made of is
the business of whoever starts the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Protocol, Self

Attribute = str | int | float | bool


class Span(Protocol):
    """A named, timed part of a call. Its methods may be called from any thread."""

    @property
    def trace_id(self) -> str:
        """The trace that it belongs to: 32 hexadecimal digits."""
        ...

    @property
    def span_id(self) -> str:
        """Its own identifier: 16 hexadecimal digits."""
        ...

    def child(self, name: str, attributes: Mapping[str, Attribute]) -> Span:
        """Begin a part of this part."""
        ...

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        """Add to what is known of it."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """Stop the time. Harmless when repeated; the first end counts."""
        ...


call_fields: ContextVar[Mapping[str, str] | None] = ContextVar("lakehouse_call", default=None)
"""Whose call is being served, by ``request_id``, ``principal`` and the like; None outside of calls."""
_current: ContextVar[Span | None] = ContextVar("lakehouse_span", default=None)


class _Untraced:
    """What takes the place of a span where nobody traces."""

    __slots__ = ()
    trace_id = ""
    span_id = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def child(self, name: str, attributes: Mapping[str, Attribute]) -> _Untraced:
        """Itself."""
        return self

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        """Nothing."""

    def end(self, error: BaseException | None = None) -> None:
        """Nothing."""


class _Scope:
    """Makes a span the current one for the length of a ``with``, and ends it with the block."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[Span | None] | None = None

    def __enter__(self) -> Span:
        self._token = _current.set(self._span)
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._token is not None
        # A generator that nobody finishes may be closed from anywhere; what is current there is not touched.
        with suppress(ValueError):
            _current.reset(self._token)
        # A generator that is closed and an iterator that is exhausted have not failed.
        self._span.end(error if isinstance(error, Exception) and kind is not StopIteration else None)


UNTRACED = _Untraced()


def span(name: str, **attributes: Attribute) -> _Scope | _Untraced:
    """A part of what is going on, for a ``with``; entering gives the span.

    Args:
        name: What the part does, from a small fixed set: ``plan``, ``storage.get``.
        attributes: What is known of it. Never literals of a statement, never secrets.
    """
    parent = _current.get()
    return UNTRACED if parent is None else _Scope(parent.child(name, attributes))


def begin(name: str, **attributes: Attribute) -> Span:
    """A part that outlives the function it begins in; ``end`` it. It is not made the current one."""
    parent = _current.get()
    return UNTRACED if parent is None else parent.child(name, attributes)


def current() -> Span | None:
    """The innermost span of what is going on in this context, if anybody traces it."""
    return _current.get()


def make_current(outer: Span) -> None:
    """Make a span the current one for as long as this context lasts."""
    _current.set(outer)
