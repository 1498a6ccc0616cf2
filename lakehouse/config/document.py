"""The configuration file that holds every default, written from the settings themselves."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lakehouse.config.section import table_model
from lakehouse.config.settings import ENV_PREFIX, Settings

_HEADER = f"""\
Every setting of the server, with its default. A file may leave out whatever it does not change, and \
unknown keys are refused.

The variable {ENV_PREFIX}SECTION__KEY overrides a key, {ENV_PREFIX}BUCKETS the list of buckets (as JSON). \
Secrets are never written here but referred to, as {{ env = "NAME" }} or {{ file = "path" }} with a file of \
mode 0600.

Written by python -m lakehouse.config --toml; make check compares the two."""


def render() -> str:
    """The text of ``lakehouse.toml``: every key with its explanation, bounds and default."""
    lines = [*_comment(_HEADER)]
    for section, field in Settings.model_fields.items():
        model = table_model(Settings, section)
        if model is None:
            raise TypeError(f"{section} is not a table")
        repeated = isinstance(field.default, tuple)
        lines += ["", "", *_comment(model.__doc__ or ""), f"[[{section}]]" if repeated else f"[{section}]"]
        for table in field.default if repeated else (field.default,):
            lines += _keys(model, table)
    return "\n".join(lines) + "\n"


def _keys(model: type[BaseModel], table: BaseModel) -> Iterator[str]:
    for key, field in model.model_fields.items():
        yield ""
        yield from _comment(" ".join(filter(None, [field.description, _bounds(field)])))
        yield f"{key} = {_value(getattr(table, key))}"


def _bounds(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        choices = [json.dumps(choice) for choice in get_args(field.annotation)]
        return f"One of {', '.join(choices)}." if len(choices) > 1 else f"Only {choices[0]}."
    low, above, high = (_limit(field, name) for name in ("ge", "gt", "le"))
    if low is not None and high is not None:
        return f"From {_value(low)} to {_value(high)}."
    if low:
        return f"At least {_value(low)}."
    return f"More than {_value(above)}." if above is not None else ""


def _limit(field: FieldInfo, name: str) -> float | None:
    return next((getattr(mark, name) for mark in field.metadata if hasattr(mark, name)), None)


def _comment(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield "#"
        yield from (f"# {line}" for line in textwrap.wrap(paragraph, 98, break_on_hyphens=False))


def _value(value: Any) -> str:
    if isinstance(value, Path):
        return json.dumps(value.as_posix() if value.is_absolute() else f"./{value.as_posix()}")
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and value >= 100_000:
        return f"{value:_}"
    return repr(value)
