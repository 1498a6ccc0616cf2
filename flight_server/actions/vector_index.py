"""What the actions on vector indexes have in common: which index or profile they are about, and its model."""

from __future__ import annotations

from pydantic import Field

from flight_server.actions.registry import Request, Response
from flight_server.context import CallContext
from lakehouse.access.profile_access import Profile
from lakehouse.catalog import Table
from lakehouse.catalog.names import fold
from lakehouse.errors import InvalidRequest
from lakehouse.vectors.generation import Model, parted_name
from lakehouse.vectors.guarded_indexes import GuardedIndexes

OF_PROFILE = "the profile that it is about, none for none; the session's own when left out"


class OfIndex(Request):
    """Which index."""

    index: str = Field(
        description="its name in the profile, or PROFILE:NAME; :NAME of one that is of no profile",
        min_length=1,
    )
    profile: str | None = Field(default=None, description=OF_PROFILE)


class VectorModel(Response):
    """The model that vectors were made with; empty where nobody said."""

    profile: str
    provider: str
    name: str
    digest: str


def model_response(model: Model) -> VectorModel:
    """A model as actions tell of it."""
    return VectorModel(profile=model.profile, provider=model.provider, name=model.name, digest=model.digest)


def profile_of(ctx: CallContext, indexes: GuardedIndexes, index: str = "") -> Profile | None:
    """The profile that a request is about, by the full name of its index where it is about one."""
    name = parted_name(indexes.named(index))[0] if index else indexes.profile
    return ctx.session.access.profile(name) if name else None


def columns_of(table: Table, names: list[str]) -> tuple[str, ...]:
    """Columns as the table spells them.

    Raises:
        InvalidRequest: It has no such column.
    """
    known = {fold(name): name for name in table.arrow_schema().names}
    for name in names:
        if fold(name) not in known:
            raise InvalidRequest(f"column '{table.name}.{name}' does not exist")
    return tuple(known[fold(name)] for name in names)
