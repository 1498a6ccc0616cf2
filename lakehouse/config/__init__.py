"""Typed configuration: ``lakehouse.toml``, overridden by ``LAKEHOUSE__SECTION__KEY`` variables."""

from lakehouse.config.loading import load_settings
from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.settings import (
    BucketSettings,
    CatalogSettings,
    EngineSettings,
    IngestSettings,
    LimitSettings,
    LogSettings,
    ServerSettings,
    SessionSettings,
    Settings,
)

__all__ = [
    "BucketSettings",
    "CatalogSettings",
    "EngineSettings",
    "IngestSettings",
    "LimitSettings",
    "LogSettings",
    "SecretRef",
    "ServerSettings",
    "SessionSettings",
    "Settings",
    "load_settings",
]
