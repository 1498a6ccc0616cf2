"""Typed configuration: ``lakehouse.toml``, overridden by ``LAKEHOUSE__SECTION__KEY`` variables."""

from lakehouse.config.access import (
    AuditSettings,
    AuthSettings,
    GrantSettings,
    JwtSettings,
    ObjectGrantSettings,
    RoleSettings,
    TlsSettings,
)
from lakehouse.config.ai import AiSettings, ModelSettings
from lakehouse.config.catalog import CatalogConnection, CatalogSettings
from lakehouse.config.datasets import DatasetSettings
from lakehouse.config.journal import JournalSettings
from lakehouse.config.loading import load_settings
from lakehouse.config.objects import ObjectSettings
from lakehouse.config.profiles import ProfileSettings
from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.settings import (
    RESERVED_CATALOGS,
    EngineSettings,
    IngestSettings,
    LimitSettings,
    LogSettings,
    MaintenanceSettings,
    OperationsSettings,
    ServerSettings,
    SessionSettings,
    Settings,
    TelemetrySettings,
)
from lakehouse.config.storage import BucketSettings, CacheSettings

__all__ = [
    "RESERVED_CATALOGS",
    "AiSettings",
    "AuditSettings",
    "AuthSettings",
    "BucketSettings",
    "CacheSettings",
    "CatalogConnection",
    "CatalogSettings",
    "DatasetSettings",
    "EngineSettings",
    "GrantSettings",
    "IngestSettings",
    "JournalSettings",
    "JwtSettings",
    "LimitSettings",
    "LogSettings",
    "MaintenanceSettings",
    "ModelSettings",
    "ObjectGrantSettings",
    "ObjectSettings",
    "OperationsSettings",
    "ProfileSettings",
    "RoleSettings",
    "SecretRef",
    "ServerSettings",
    "SessionSettings",
    "Settings",
    "TelemetrySettings",
    "TlsSettings",
    "load_settings",
]
