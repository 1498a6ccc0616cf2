"""Settings of profiles: a model, its parameters, and the datasets that may be searched with them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lakehouse.config.access import RoleName, TablePattern
from lakehouse.config.section import Section
from lakehouse.config.values import BucketName, not_reserved

NO_PROFILE = "none"
"""What stands for no profile, where there would be one."""


class ProfileSettings(Section):
    """A profile: indexes of its own, made with one model (docs/vectors.md). Repeat [[profiles]] for more."""

    name: Annotated[BucketName, not_reserved("default", NO_PROFILE)] = Field(
        description="What requests and sessions call it. Its indexes are in the bucket of class "
        '"profile:NAME", or in the primary one where there is no such bucket.',
        examples=["fresh"],
    )
    model: str = Field(
        "", description="The one of [[ai.models]] that embeds for it. Empty takes ai.embedder."
    )
    datasets: tuple[TablePattern, ...] = Field(
        ("*.*.*",),
        description="Tables that may be embedded, indexed and searched with it, beside what the caller may "
        "read: catalog.schema.table, each a name or a pattern with *.",
    )
    roles: tuple[RoleName, ...] = Field(
        (), description="Who may use it; for others there is no such profile. Empty is everybody."
    )
    metric: Literal["cosine", "inner_product", "l2"] = Field(
        "cosine", description="How vectors are compared in indexes that say nothing."
    )
    algorithm: Literal["hnsw", "exact"] = Field("hnsw", description="How these are searched.")
    storage: Literal["fp32", "fp16", "int8"] = Field("fp32", description="How numbers are kept in these.")
    m: int = Field(32, ge=2, le=256, description="Neighbours of a vector in the graph of these.")
    ef_construction: int = Field(80, ge=4, le=4096, description="Effort of building these.")
    ef_search: int = Field(64, ge=1, le=16_384, description="Effort of searches that say nothing.")
    k: int = Field(10, ge=1, le=100_000, description="How many rows a search gives that says nothing.")
