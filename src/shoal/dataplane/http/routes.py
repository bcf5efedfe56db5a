"""What a path of the public port means.

Sources: Open Inference Protocol (V2) over HTTP; Triton's extensions model_repository,
model_configuration and statistics; KServe's V1 protocol.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from shoal.domain.errors import MethodNotAllowed, PathNotFound

KNOWN_TARGETS: Final = 50_000  # paths whose meaning is kept


class Kind(enum.Enum):
    """Of an endpoint."""

    ALIVE = "alive"
    SERVER_METADATA = "server metadata"
    SERVER_LIVE = "server live"
    SERVER_READY = "server ready"
    MODELS = "models"
    ALL_STATISTICS = "all statistics"
    MODEL_METADATA = "model metadata"
    MODEL_READY = "model ready"
    MODEL_CONFIG = "model config"
    MODEL_STATISTICS = "model statistics"
    INFER = "infer"
    INDEX = "index"
    LOAD = "load"
    UNLOAD = "unload"
    V1_MODELS = "v1 models"
    V1_MODEL = "v1 model"
    PREDICT = "predict"

    @property
    def methods(self) -> tuple[str, ...]:
        return ("POST",) if self in _POST else ("GET", "HEAD")


_POST: Final = (Kind.INFER, Kind.PREDICT, Kind.INDEX, Kind.LOAD, Kind.UNLOAD)


@dataclass(frozen=True, slots=True)
class Route:
    kind: Kind
    name: str = ""
    version: int | None = None


_MODEL: Final = r"(?P<name>[^/:]+)(?:/versions/(?P<version>[^/:]+))?"
_PATTERNS: Final = (
    (re.compile(rf"/v2/models/{_MODEL}/infer"), Kind.INFER),
    (re.compile(rf"/v1/models/{_MODEL}:predict"), Kind.PREDICT),
    (re.compile(r"/v2/?"), Kind.SERVER_METADATA),
    (re.compile(r"/v2/health/live"), Kind.SERVER_LIVE),
    (re.compile(r"/v2/health/ready"), Kind.SERVER_READY),
    (re.compile(r"/v2/models/?"), Kind.MODELS),
    (re.compile(r"/v2/models/stats"), Kind.ALL_STATISTICS),
    (re.compile(rf"/v2/models/{_MODEL}/ready"), Kind.MODEL_READY),
    (re.compile(rf"/v2/models/{_MODEL}/config"), Kind.MODEL_CONFIG),
    (re.compile(rf"/v2/models/{_MODEL}/stats"), Kind.MODEL_STATISTICS),
    (re.compile(rf"/v2/models/{_MODEL}/?"), Kind.MODEL_METADATA),
    (re.compile(r"/v2/repository/index"), Kind.INDEX),
    (re.compile(r"/v2/repository/models/(?P<name>[^/:]+)/load"), Kind.LOAD),
    (re.compile(r"/v2/repository/models/(?P<name>[^/:]+)/unload"), Kind.UNLOAD),
    (re.compile(r"/v1/models/?"), Kind.V1_MODELS),
    (re.compile(rf"/v1/models/{_MODEL}"), Kind.V1_MODEL),
    (re.compile(r"/"), Kind.ALIVE),
)


class Routes:
    """Remembers what it found: a hot path is looked up by its bytes."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Route] = {}

    def find(self, method: str, target: str) -> Route:
        """Raises PathNotFound, MethodNotAllowed."""
        route = self._known.get((method, target))
        if route is None:
            route = find(method, target)
            if len(self._known) >= KNOWN_TARGETS:
                self._known.clear()
            self._known[method, target] = route
        return route


def find(method: str, target: str) -> Route:
    for pattern, kind in _PATTERNS:
        match = pattern.fullmatch(target)
        if match is None:
            continue
        if method not in kind.methods:
            raise MethodNotAllowed(
                f"{target} takes {' or '.join(kind.methods)}, not {method}", kind.methods
            )
        groups = match.groupdict()
        return Route(kind, unquote(groups.get("name") or ""), _version(groups.get("version")))
    raise PathNotFound(
        f"there is nothing at {target}; inference is at /v2/models/NAME/infer and "
        "/v1/models/NAME:predict"
    )


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise PathNotFound(f"version {unquote(text)!r} is not a number; versions are 1, 2, 3, …")
    return int(text)
