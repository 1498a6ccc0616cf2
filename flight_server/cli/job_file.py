"""Job files: what is to be brought in again and again, as steps in an order, in TOML."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lakehouse.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{[^}]*\}?")
_PASSWORD = re.compile(r"://[^/@]*:(?P<uri>[^/@]+)@|\bpassword\s*=\s*(?P<keyword>[^\s&]+)", re.IGNORECASE)
_WILDCARDS = set("*?[")


class JobError(ConfigError):
    """A job file is wrong; names file, step and field."""

    code = "JOB_INVALID"


class Step(BaseModel):
    """One step: an action with its request, or files that are sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="", description="what messages call it; the action or the files if left out")
    action: str | None = Field(default=None, min_length=1)
    upload: str | None = Field(default=None, min_length=1)
    into: str | None = Field(default=None, pattern=r"^[^.]+(\.[^.]+){0,2}$")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    on_failure: Literal["stop", "continue"] = "stop"
    when_empty: Literal["fail", "skip"] = "fail"

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.action is None) == (self.upload is None):
            raise ValueError("exactly one of action and upload has to be given")
        if self.upload is not None and self.into is None:
            raise ValueError("into is missing: the table that the files go into")
        if self.action is not None and "when_empty" in self.model_fields_set:
            raise ValueError("when_empty is about upload")
        said = {"table", "db_schema", "catalog"} & self.with_.keys()
        if self.into is not None and said:
            raise ValueError(f"into and with.{min(said)} say the same twice")
        return self

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.name or self.action or self.upload or ""

    @property
    def table(self) -> dict[str, str]:
        """The fields of a request that name the table which ``into`` says."""
        names = (self.into or "").split(".") if self.into else []
        return dict(zip(("catalog", "db_schema", "table")[3 - len(names) :], names, strict=True))

    @property
    def request(self) -> dict[str, Any]:
        """The request of the action, or the options of what is sent."""
        return {**self.with_, **(self.table if self.action is not None else {})}


class Job(BaseModel):
    """What is to be done, in this order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field(min_length=1)
    steps: tuple[Step, ...] = Field(min_length=1)


class JobFile:
    """A job file that was read. Variables are taken from the environment when a step is about to be done.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            JobError: It is no job; names the step and the field.
            OSError: It cannot be read.
        """
        self.path = path
        self.name = path.stem
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise JobError(f"{path}: {error}") from None
        try:
            self.job = Job.model_validate(content)
        except ValidationError as error:
            problems = [self._place(each["loc"], content) + each["msg"] for each in error.errors()]
            raise JobError("; ".join(problems)) from None
        for number, step in enumerate(self.job.steps):
            self._check_secrets(number, step)

    def filled(self, number: int, environment: Mapping[str, str] | None = None) -> Step:
        """A step with the values of its variables.

        Args:
            number: Which step, from 0.
            environment: Where they are taken from; the process's own if left out.

        Raises:
            JobError: One of them is not set; names all of those.
        """
        step = self.job.steps[number]
        missing: list[str] = []
        values = os.environ if environment is None else environment
        said = {
            name: _filled(getattr(step, field), values, name, missing)
            for name, field in (("upload", "upload"), ("into", "into"), ("with", "with_"))
        }
        if missing:
            raise JobError("; ".join(f"{self.at(number)}: {each}" for each in missing))
        try:
            return Step.model_validate({**step.model_dump(by_alias=True, exclude_unset=True), **said})
        except ValidationError as error:
            first = error.errors()[0]
            raise JobError(f"{self.at(number)}: {_field(first['loc'])}{first['msg']}") from None

    def files(self, step: Step) -> list[Path]:
        """The files that a step sends, sorted; relative names are beside the job file."""
        pattern = step.upload or ""
        base = self.path.parent
        if not _WILDCARDS & set(pattern):
            path = base / pattern
            found = path.rglob("*") if path.is_dir() else [path]
        elif Path(pattern).is_absolute():
            found = Path("/").glob(pattern.lstrip("/"))
        else:
            found = base.glob(pattern)
        return sorted(path for path in found if path.is_file())

    def at(self, number: int) -> str:
        """The file and a step of it, for messages."""
        return f"{self.path}: step {number + 1} ({self.job.steps[number].title})"

    def _place(self, loc: tuple[int | str, ...], content: dict[str, Any]) -> str:
        if len(loc) > 1 and loc[0] == "steps" and isinstance(loc[1], int):
            step = content["steps"][loc[1]]
            found = step if isinstance(step, dict) else {}
            title = next((str(found[key]) for key in ("name", "action", "upload") if found.get(key)), "")
            shown = f" ({title})" if title else ""
            return f"{self.path}: step {loc[1] + 1}{shown}: {_field(loc[2:])}"
        return f"{self.path}: {_field(loc)}"

    def _check_secrets(self, number: int, step: Step) -> None:
        """Make sure that no password stands in the file.

        Raises:
            JobError: One does.
        """
        found = _PASSWORD.search(str(step.with_.get("dsn", "")))
        if found is not None and "${" not in (found["uri"] or found["keyword"]):
            raise JobError(
                f"{self.at(number)}: with.dsn: a password stands in the file",
                "refer to it as ${NAME}, or leave it to PGPASSWORD, the password file, or [[sources]]",
            )


def find_job(name: str, directory: Path) -> JobFile:
    """The job of a name, or in a file.

    Raises:
        JobError: There is none, or it is wrong.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if not _NAME.fullmatch(name):
            raise JobError(f"'{name}' is neither the name of a job nor a file that ends in .toml")
        path = directory / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in directory.glob("*.toml"))) or "none"
        raise JobError(f"there is no job in {path}", f"jobs in {directory}: {known}")
    return JobFile(path)


def _field(loc: tuple[int | str, ...]) -> str:
    return f"{'.'.join(map(str, loc))}: " if loc else ""


def _filled(value: Any, values: Mapping[str, str], place: str, missing: list[str]) -> Any:
    """The value with those of its variables; what is missing or wrong is added to a list."""
    if isinstance(value, dict):
        return {name: _filled(each, values, f"{place}.{name}", missing) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, values, f"{place}.{number}", missing) for number, each in enumerate(value)]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if not isinstance(value, str):
        return value

    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        if match["name"] is None:
            missing.append(f"{place}: '{match[0]}' is no reference to a variable, expected ${{NAME}}")
            return ""
        found: str | None = values.get(match["name"], match["default"])
        if found is None:
            missing.append(f"{place}: the variable {match['name']} is not set in the environment")
            return ""
        return found

    return _VARIABLE.sub(one, value)
