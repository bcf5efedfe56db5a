"""Settings: what they are (`groups`) and how they are read (`reading`)."""

from __future__ import annotations

from shoal.settings.groups import (
    CacheSettings,
    FolderSettings,
    GrpcSettings,
    HttpSettings,
    IsolationSettings,
    LoadSettings,
    LogSettings,
    ManagementSettings,
    MetricsSettings,
    RecycleSettings,
    RegistrySettings,
    RequestSettings,
    Settings,
    TrustSettings,
)
from shoal.settings.kinds import parse_bytes
from shoal.settings.mesh import MeshSettings
from shoal.settings.reading import (
    Configuration,
    SettingField,
    read_settings,
    restore_settings,
    setting_fields,
    value_of,
)

__all__ = [
    "CacheSettings",
    "Configuration",
    "FolderSettings",
    "GrpcSettings",
    "HttpSettings",
    "IsolationSettings",
    "LoadSettings",
    "LogSettings",
    "ManagementSettings",
    "MeshSettings",
    "MetricsSettings",
    "RecycleSettings",
    "RegistrySettings",
    "RequestSettings",
    "SettingField",
    "Settings",
    "TrustSettings",
    "parse_bytes",
    "read_settings",
    "restore_settings",
    "setting_fields",
    "value_of",
]
