"""What a caller is told whose JSON is not what was expected."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from lakehouse.errors import InvalidRequest


def misfit(error: ValidationError, model: type[BaseModel], what: str, whole: str) -> InvalidRequest:
    """The error that names the first field that does not fit, and those that there are.

    Args:
        error: What validation said.
        model: What was expected.
        what: What it was that did not fit, as the caller calls it.
        whole: What to call it where no single field is to blame.
    """
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or whole
    fields = ", ".join(model.model_fields) or "none"
    return InvalidRequest(f"{what}: {place}: {first['msg']}", f"fields: {fields}")
