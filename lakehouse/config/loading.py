"""From file, environment and arguments to Settings, with errors that say what to write instead."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

from lakehouse.config.section import Anchored, keys, table_model
from lakehouse.config.settings import ENV_PREFIX, Settings
from lakehouse.errors import ConfigError

_SQLITE = "sqlite:///"
DEFAULT_FILE = Path("lakehouse.toml")

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """Values from one place, nested as in the file. ``name`` is what an error calls the place."""

    name: str
    values: Mapping[str, Any]

    def holds(self, location: Location) -> bool:
        node: Any = self.values
        for step in location:
            try:
                node = node[step]
            except (KeyError, IndexError, TypeError):
                return False
        return True


def load_settings(path: Path | None, overrides: dict[str, Any] | None = None) -> Settings:
    """The settings of this process.

    Later sources win: defaults, the file, ``LAKEHOUSE__SECTION__KEY`` variables, ``overrides``.
    Relative paths become absolute, from the directory of the file or else the working directory.

    Args:
        path: The configuration file. None takes ``./lakehouse.toml`` where that exists.
        overrides: Values from the command line, nested as in the file.

    Raises:
        ConfigError: Names each key that is unknown or wrong, its value, and what was expected.
    """
    file = path if path is not None else DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    sources = [] if file is None else [_Source(str(file), _read_file(file))]
    sources.append(_Source("the environment", _read_environment()))
    sources.append(_Source("the command line", overrides or {}))
    merged: dict[str, Any] = {}
    for source in sources:
        merged = _merge(merged, source.values)
    private = [name for name in merged if name.startswith("_")]  # these steer BaseSettings itself
    if private:
        raise _config_error([f"unknown key {name}, {_nearest_key((name,))}" for name in private])
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        raise _config_error([_explain(detail, sources) for detail in details]) from None
    return _anchor(settings, file.absolute().parent if file else Path.cwd())


def _config_error(problems: list[str]) -> ConfigError:
    if len(problems) == 1:
        return ConfigError(problems[0])
    return ConfigError(f"{len(problems)} settings are wrong:" + "".join(f"\n  {line}" for line in problems))


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"configuration file {file} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration file {file} is not valid TOML: {error}") from None


def _read_environment() -> dict[str, Any]:
    known = sorted(_variables(Settings, ENV_PREFIX))
    names = [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]
    problems = [_unknown_variable(name, known) for name in names if name.upper() not in known]
    if problems:
        raise _config_error(problems)
    try:
        return EnvSettingsSource(Settings)()
    except ValueError:
        tables = " or ".join(
            name for name in names if name[len(ENV_PREFIX) :].lower() in Settings.model_fields
        )
        raise ConfigError(f"{tables} is not valid JSON, expected a whole section as JSON") from None


def _variables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """The environment variables of a table; a list of tables is one variable."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name.upper()}"
        table = table_model(model, name)
        if table is not None and not isinstance(field.default, tuple):
            yield from _variables(table, f"{prefix}{name.upper()}__")


def _unknown_variable(name: str, known: list[str]) -> str:
    keys = [variable[len(ENV_PREFIX) :] for variable in known]
    near = get_close_matches(name[len(ENV_PREFIX) :].upper(), keys, n=1, cutoff=0.6)
    suggestion = f"did you mean {ENV_PREFIX}{near[0]}?" if near else f"expected {ENV_PREFIX}SECTION__KEY"
    return f"unknown environment variable {name}, {suggestion}"


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


_EXPECTATIONS = {"model_type": "should be a table", "tuple_type": "should be a list of tables"}


def _explain(detail: ErrorDetails, sources: list[_Source]) -> str:
    """One line: the key, where it stands, its value unless that may be secret, what was expected."""
    location = detail["loc"]
    place = next((f" in {source.name}" for source in reversed(sources) if source.holds(location)), "")
    if detail["type"] == "extra_forbidden":
        return f"unknown key {_dotted(location)}{place}, {_nearest_key(location)}"
    expected = _EXPECTATIONS.get(detail["type"]) or detail["msg"].removeprefix("Value error, ").replace(
        "Input should", "should"
    )
    value = detail["input"]
    if isinstance(value, str | int | float) and detail["type"] != "secret_ref":
        return f"{_dotted(location)} = {_shorten(value)}{place}: {expected}"
    return f"{_dotted(location)}: {expected}".removeprefix(": ")


def _dotted(location: Location) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).lstrip(".")


def _shorten(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _nearest_key(location: Location) -> str:
    model: type[BaseModel] = Settings
    for step in location[:-1]:
        model = (table_model(model, step) if isinstance(step, str) else None) or model
    key = str(location[-1])
    near = get_close_matches(key, keys(model), n=1, cutoff=0.6)
    if near:
        return f"did you mean {_dotted((*location[:-1], near[0]))}?"
    elsewhere = {
        name: f"{section}.{name}"
        for section in Settings.model_fields
        if (table := table_model(Settings, section)) is not None
        for name in keys(table)
    }
    near = get_close_matches(key, elsewhere, n=1, cutoff=0.7)
    if near:
        return f"did you mean {elsewhere[near[0]]}?"
    return f"expected one of {', '.join(keys(model))}"


def _anchor(model: Model, base: Path) -> Model:
    """A copy in which marked paths are absolute."""
    changes: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            changes[name] = _anchor(value, base)
        elif isinstance(value, tuple):
            changes[name] = tuple(_anchor(e, base) if isinstance(e, BaseModel) else e for e in value)
        elif (
            value
            and (anchor := next((mark for mark in field.metadata if isinstance(mark, Anchored)), None))
            and (str(value).startswith(_SQLITE) or "://" not in str(value))
        ):
            scheme = _SQLITE if str(value).startswith(_SQLITE) else ""
            value = str(value).removeprefix(_SQLITE) if scheme else value
            absolute = base / Path(value).expanduser()
            absolute = absolute if anchor.keeps_links else absolute.resolve()
            changes[name] = f"{scheme}{absolute}" if isinstance(value, str) else absolute
    return model.model_copy(update=changes)
