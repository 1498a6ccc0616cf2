"""The configuration file that holds every default, written from the settings themselves."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.section import table_model
from lakehouse.config.settings import ENV_PREFIX, Settings

_HEADER = f"""\
Every setting of the server, with its default. A file may leave out whatever it does not change, and \
unknown keys are refused.

The variable {ENV_PREFIX}SECTION__KEY overrides a key, {ENV_PREFIX}BUCKETS the list of buckets (as JSON). \
Secrets are never written here but referred to, as {{ env = "NAME" }}, {{ file = "path" }} with a file of \
mode 0600, or {{ directory = "path" }} with a file for each key.

Written by python -m lakehouse.config --toml; make check compares the two."""


def render() -> str:
    """The text of ``lakehouse.toml``: every key with its explanation, bounds and default."""
    lines = [*_comment(_HEADER)]
    for section, field in Settings.model_fields.items():
        lines += _table(section, Settings, section, field.default)
    return "\n".join(lines) + "\n"


def _table(path: str, owner: type[BaseModel], name: str, default: Any) -> Iterator[str]:
    """A table or list of tables; one that is not there by default is shown as a comment, with examples."""
    model = table_model(owner, name)
    if model is None:
        raise TypeError(f"{path} is not a table")
    repeated = isinstance(default, tuple)
    entries = default if repeated else (default,)
    absent = not entries or entries[0] is None
    mark = "# " if absent else ""
    yield from (
        "",
        "",
        *_comment(model.__doc__ or ""),
        f"{mark}[[{path}]]" if repeated else f"{mark}[{path}]",
    )
    for entry in (None,) if absent else entries:
        nested = [key for key in model.model_fields if _is_table(model, key)]
        for key, field in model.model_fields.items():
            if key not in nested:
                value = None if entry is None else getattr(entry, key)
                yield from _key(field.alias or key, field, value, example=entry is None)
        for key in nested:
            field = model.model_fields[key]
            yield from _table(
                f"{path}.{key}", model, key, field.default if entry is None else getattr(entry, key)
            )


def _is_table(model: type[BaseModel], key: str) -> bool:
    table = table_model(model, key)
    return table is not None and table is not SecretRef


def _key(key: str, field: FieldInfo, value: Any, *, example: bool) -> Iterator[str]:
    yield ""
    yield from _comment(" ".join(filter(None, [field.description, _bounds(field)])))
    if value is None and (field.examples or example):
        value = field.examples[0] if field.examples else field.default
        example = True
    if value is None:
        value = SecretRef(env="NAME")
    yield f"{'# ' if example else ''}{key} = {_value(value)}"


def _bounds(field: FieldInfo) -> str:
    if get_origin(field.annotation) is tuple and get_origin(get_args(field.annotation)[0]) is Literal:
        choices = [json.dumps(choice) for choice in get_args(get_args(field.annotation)[0])]
        return f"Any of {', '.join(choices)}."
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
    if isinstance(value, SecretRef):
        return f"{{ env = {json.dumps(value.env)} }}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        inner = ", ".join(f"{key} = {_value(entry)}" for key, entry in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and value >= 100_000:
        return f"{value:_}"
    return repr(value)
