"""Requests and results of actions: data classes here, JSON on the wire."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime
from functools import cache
from typing import Any, Protocol, TypeVar

from lakehouse_client.errors import LakehouseClientError

R = TypeVar("R")
P = TypeVar("P")
OnProgress = Callable[[float, str], None]
OnPart = Callable[[P], None]


class Call(Protocol):
    """Runs an action: its name, its request, the class of its result, who is told of progress and of parts.

    ``part`` is the class of the parts.
    """

    def __call__(
        self,
        name: str,
        request: Any,
        response: type[R],
        on_progress: OnProgress | None = None,
        part: type[Any] | None = None,
        on_part: OnPart[Any] | None = None,
    ) -> R:
        """The action's result."""
        ...


def encode(request: Any) -> dict[str, Any]:
    """The request as a JSON object; what is left at its default is left to the server's default."""
    return {
        field.name: _plain(value)
        for field in fields(request)
        if (value := getattr(request, field.name)) != field.default or field.default is MISSING
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return encode(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    return value


def decode(kind: type[R], body: Any) -> R:
    """The result as an object of its class; fields that this client does not know yet are passed over.

    Raises:
        LakehouseClientError: The result lacks something, as that of another version of the server may.
    """
    try:
        result: R = _typed(kind, body)
    except (KeyError, TypeError, ValueError) as error:
        raise LakehouseClientError(
            "FAILED", f"the server's result is no {kind.__name__} ({error!r}); do the versions differ?"
        ) from error
    return result


def _typed(kind: Any, value: Any) -> Any:
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        names = [f.name for f in fields(kind) if f.name in value or f.default is MISSING]
        return kind(**{name: _typed(hints[name], value[name]) for name in names})
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _typed(next(a for a in arguments if a is not type(None)), value)
    if origin in (list, Sequence):
        return [_typed(arguments[0], item) for item in value]
    if origin in (dict, Mapping):
        return {key: _typed(arguments[1], item) for key, item in value.items()}
    if kind in (datetime, date):
        return kind.fromisoformat(value)
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
