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

from shoal.codecs import names
from shoal.domain.errors import MethodNotAllowed, PathNotFound

KNOWN_TARGETS: Final = 50_000  # paths whose meaning is kept
LONGEST_KNOWN: Final = 512  # characters of one: what strangers ask for must not fill the memory


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
    (re.compile(r"/v2"), Kind.SERVER_METADATA),
    (re.compile(r"/v2/health/live"), Kind.SERVER_LIVE),
    (re.compile(r"/v2/health/ready"), Kind.SERVER_READY),
    (re.compile(r"/v2/models"), Kind.MODELS),
    (re.compile(r"/v2/models/stats"), Kind.ALL_STATISTICS),
    (re.compile(rf"/v2/models/{_MODEL}/ready"), Kind.MODEL_READY),
    (re.compile(rf"/v2/models/{_MODEL}/config"), Kind.MODEL_CONFIG),
    (re.compile(rf"/v2/models/{_MODEL}/stats"), Kind.MODEL_STATISTICS),
    (re.compile(rf"/v2/models/{_MODEL}"), Kind.MODEL_METADATA),
    (re.compile(r"/v2/repository/index"), Kind.INDEX),
    (re.compile(r"/v2/repository/models/(?P<name>[^/:]+)/load"), Kind.LOAD),
    (re.compile(r"/v2/repository/models/(?P<name>[^/:]+)/unload"), Kind.UNLOAD),
    (re.compile(r"/v1/models"), Kind.V1_MODELS),
    (re.compile(rf"/v1/models/{_MODEL}"), Kind.V1_MODEL),
    (re.compile(r"/"), Kind.ALIVE),
)
# What clients that escape more than they must make of the colon in `M:predict`.
_ESCAPED_COLON: Final = re.compile("%3[aA]")


class Routes:
    """Remembers what it found, up to `most` paths: a hot one is looked up by its bytes."""

    def __init__(self, most: int = KNOWN_TARGETS) -> None:
        self._most = most
        self._known: dict[tuple[str, str], Route] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, method: str, target: str) -> Route:
        """target: as `message.Request` has it. Raises PathNotFound, MethodNotAllowed, and for what
        can name no model or version ModelNotFound, VersionNotFound."""
        route = self._known.get((method, target))
        if route is None:
            route = find(method, target)
            if len(target) <= LONGEST_KNOWN:
                if len(self._known) >= self._most:
                    self._known.clear()
                self._known[method, target] = route
        return route


def find(method: str, target: str) -> Route:
    """What `Routes.find` remembers. A slash at the end changes nothing, nor does escaping what
    need not be escaped."""
    path = _ESCAPED_COLON.sub(":", target.removesuffix("/")) or "/"
    for pattern, kind in _PATTERNS:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        if method not in kind.methods:
            raise MethodNotAllowed(
                f"{names.shown(target)} takes {' or '.join(kind.methods)}, not {method}",
                kind.methods,
            )
        groups = match.groupdict()
        return Route(kind, _name(groups.get("name")), _version(groups.get("version")))
    raise PathNotFound(
        f"there is nothing at {names.shown(target)}; inference is at /v2/models/NAME/infer and "
        "/v1/models/NAME:predict"
    )


def _name(text: str | None) -> str:
    return "" if text is None else names.model_name(unquote(text))


def _version(text: str | None) -> int | None:
    return None if text is None else names.model_version(unquote(text))
