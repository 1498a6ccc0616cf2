"""What every table of the configuration has in common."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Anchored:
    """Marks a path that is relative to the directory of the configuration file.

    Args:
        keeps_links: Leave links as they are: what they lead to may change while the server runs.
    """

    def __init__(self, *, keeps_links: bool = False) -> None:
        self.keeps_links = keeps_links


class Section(BaseModel):
    """A table of the configuration file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and wanted in (int, float):
            raise ValueError("should be a number, not true or false")
        return value


def table_model(owner: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The model of a table, or of the entries of a list of tables; None for a plain value."""
    if field not in owner.model_fields:
        return None
    annotation = owner.model_fields[field].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def keys(model: type[BaseModel]) -> list[str]:
    """What the keys of a table are called in the file."""
    return [field.alias or name for name, field in model.model_fields.items()]
