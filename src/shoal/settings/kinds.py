"""The kinds of values that settings have: how each is written, and what is refused.

Knows no setting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_UNITS: Final = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2, "g": 1000**3, "gb": 1000**3,
    "t": 1000**4, "tb": 1000**4,
    "ki": 1024, "kib": 1024, "mi": 1024**2, "mib": 1024**2, "gi": 1024**3, "gib": 1024**3,
    "ti": 1024**4, "tib": 1024**4,
}


def parse_bytes(value: object) -> object:
    """`512MiB`, `2g`, `1.5 GB` or a number of bytes, to an int; anything else unchanged, for the
    validation that follows to refuse."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower().replace("_", "")
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(number) :].strip()
    if unit not in _UNITS:
        raise ValueError(f"{value!r} is not a size; write for example 512MiB, 2GiB or 1000000")
    try:
        return round(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise ValueError(
            f"{value!r} is not a size; write for example 512MiB, 2GiB or 1000000"
        ) from None


def _comma_separated(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _pairs(value: object) -> object:
    """A mapping, as YAML may have it, to `name=value` texts."""
    if isinstance(value, dict):
        return tuple(f"{name}={said}" for name, said in value.items())
    return _comma_separated(value)


def _check_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    names = []
    for label in labels:
        name, equals, _ = label.partition("=")
        if not name or not equals:
            raise ValueError(f"{label!r} is no label; write name=value, for example disk=ssd")
        names.append(name)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"label {twice[0]!r} occurs twice; say one value")
    return labels


def _check_address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if value and (not host or not colon or bare or not port.isdecimal() or int(port) > 65535):
        raise ValueError(
            f"{value!r} is not an address; write host:port, for example 10.0.0.5:8083 or [::1]:8083"
        )
    return value


def off(value: object) -> object:
    """YAML 1.1 takes `off` for "no"."""
    return "off" if value is False else value


def on_or_off(value: object) -> object:
    """YAML 1.1 takes `on` and `off` for truth values."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Names = Annotated[tuple[str, ...], BeforeValidator(_comma_separated)]
Labels = Annotated[tuple[str, ...], BeforeValidator(_pairs), AfterValidator(_check_labels)]
Address = Annotated[str, AfterValidator(_check_address)]


class Group(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
