"""Settings: what they are (`groups`) and how they are read (`reading`)."""

from __future__ import annotations

from shoal.settings.groups import (
    CacheSettings,
    FolderSettings,
    GrpcSettings,
    HttpSettings,
    LoadSettings,
    LogSettings,
    ManagementSettings,
    MetricsSettings,
    RegistrySettings,
    RequestSettings,
    Settings,
    TrustSettings,
    parse_bytes,
)
from shoal.settings.reading import (
    Configuration,
    SettingField,
    read_settings,
    setting_fields,
    value_of,
)

__all__ = [
    "CacheSettings",
    "Configuration",
    "FolderSettings",
    "GrpcSettings",
    "HttpSettings",
    "LoadSettings",
    "LogSettings",
    "ManagementSettings",
    "MetricsSettings",
    "RegistrySettings",
    "RequestSettings",
    "SettingField",
    "Settings",
    "TrustSettings",
    "parse_bytes",
    "read_settings",
    "setting_fields",
    "value_of",
]
