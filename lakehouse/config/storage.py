"""Settings of object storage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lakehouse.config.section import Anchored, Section
from lakehouse.config.values import BucketName


class BucketSettings(Section):
    """Object storage, the source of truth. Repeat [[buckets]] for more; tables are kept in the first."""

    name: BucketName = Field("primary", description="What other settings call this bucket.")
    kind: Literal["local"] = Field("local", description="Type of store: a directory of this machine.")
    path: Annotated[Path, Anchored()] = Field(
        Path("./data"), description="The directory; relative to this file. Created when missing."
    )
