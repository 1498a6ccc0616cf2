"""Typed configuration: ``lakehouse.toml``, overridden by ``LAKEHOUSE__SECTION__KEY`` variables."""

from lakehouse.config.access import (
    AuditSettings,
    AuthSettings,
    GrantSettings,
    JwtSettings,
    RoleSettings,
    TlsSettings,
)
from lakehouse.config.loading import load_settings
from lakehouse.config.secret_ref import SecretRef
from lakehouse.config.settings import (
    BucketSettings,
    CatalogSettings,
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

__all__ = [
    "AuditSettings",
    "AuthSettings",
    "BucketSettings",
    "CatalogSettings",
    "EngineSettings",
    "GrantSettings",
    "IngestSettings",
    "JwtSettings",
    "LimitSettings",
    "LogSettings",
    "MaintenanceSettings",
    "OperationsSettings",
    "RoleSettings",
    "SecretRef",
    "ServerSettings",
    "SessionSettings",
    "Settings",
    "TelemetrySettings",
    "TlsSettings",
    "load_settings",
]
