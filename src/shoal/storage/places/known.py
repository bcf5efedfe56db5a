"""Which place a URI belongs to: one table of schemes, and of what makes their places.

Places are kept, so that what they learnt and their connections last as long as their credentials.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from shoal.domain.errors import InvalidSpecification, RuntimeMissing
from shoal.storage.names import shown
from shoal.storage.places.buckets import SCHEMES, check_bucket_uri, is_blob_uri
from shoal.storage.places.credentials import Access, Credentials
from shoal.storage.places.place import Place
from shoal.storage.places.reach import Reach
from shoal.storage.uri import split_scheme

_MAX_KEPT: Final = 64

Make = Callable[[Access | None, Reach], Place]


class _Kind(NamedTuple):
    """A kind of place. access: the type of its credentials. check: raises InvalidSpecification for
    what it can mean nothing by. shared: may one place be asked for several URIs? make: None: it
    leads to other places, see `place_for`."""

    name: str
    access: str
    make: Make | None
    check: Callable[[str], None] = lambda _: None
    shared: bool = True


def place_for(uri: str, credentials: Credentials, name: str | None = None,
              reach: Reach | None = None) -> Place:
    """The place where `uri` lies, as whom `name` says; None: the default credentials of its type,
    else the server's own identity. Opens no connection.

    Raises InvalidSpecification for schemes and credentials that are not known, RuntimeMissing
    where a package is needed.
    """
    kind = _kind_of(uri)
    access = credentials.get(name, kind.access)
    if kind is _MLFLOW:
        return _mlflow(access, reach or Reach(), credentials)
    return _KEPT.place(kind, access, reach or Reach(), "" if kind.shared else uri)


def check_uri(uri: str) -> None:
    """Raise InvalidSpecification for a URI of no place that is known, or that its place can mean
    nothing by. uri: also with `#` and a path within."""
    _kind_of(uri).check(uri.partition("#")[0])


def access_type(uri: str) -> str:
    """The type of credentials that are used for `uri`. Raises InvalidSpecification."""
    return _kind_of(uri).access


def _kind_of(uri: str) -> _Kind:
    kind = _KINDS.get(split_scheme(uri)[0])
    if kind is None:
        known = ", ".join(f"{each}:/" if at is _MLFLOW else f"{each}://"
                          for each, at in sorted(_KINDS.items()))
        raise InvalidSpecification(
            f"uri {shown(uri)} has a scheme that is not known; known are local paths, file://, "
            f"pvc://, {known}")
    if kind is _WEB:
        if is_blob_uri(uri):
            return _SIGNED if "?" in uri else _OBJECTS["azure"]
        return _WEB
    return kind


class _Kept:
    """The places used last, by kind and credentials."""

    def __init__(self) -> None:
        self._places: OrderedDict[tuple[str, Access | None, Reach, str], Place] = OrderedDict()
        self._lock = threading.Lock()

    def place(self, kind: _Kind, access: Access | None, reach: Reach, uri: str) -> Place:
        key = kind.name, access, reach, uri
        with self._lock:
            place = self._places.get(key)
            if place is not None:
                self._places.move_to_end(key)
                return place
        assert kind.make is not None, kind
        made = kind.make(access, reach)
        with self._lock:
            place = self._places.setdefault(key, made)
            if len(self._places) > _MAX_KEPT:
                self._places.popitem(last=False)
            return place


def _object_store(access: Access | None, reach: Reach, *, nested: bool = True) -> Place:
    if importlib.util.find_spec("obstore") is None:
        raise RuntimeMissing("object stores need the package obstore, which is not installed; run: "
                             "pip install 'shoal[object-store]'")
    from shoal.storage.places.object_store import ObjectStore

    return ObjectStore(access, nested=nested, reach=reach)


def _web(access: Access | None, reach: Reach) -> Place:
    from shoal.storage.places.web import WebFile

    return WebFile(access, reach=reach)


def _check_web(uri: str) -> None:
    from shoal.storage.places.web import check_web_uri

    check_web_uri(uri)


def _hub(access: Access | None, reach: Reach) -> Place:
    from shoal.storage.places.huggingface import HuggingFace

    return HuggingFace(access, reach=reach)


def _check_hub(uri: str) -> None:
    from shoal.storage.places.huggingface import check_hub_uri

    check_hub_uri(uri)


def _registry(access: Access | None, reach: Reach) -> Place:
    from shoal.storage.places.oci import OciRegistry

    return OciRegistry(access, reach=reach)


def _check_registry(uri: str) -> None:
    from shoal.storage.places.oci import check_registry_uri

    check_registry_uri(uri)


def _git(access: Access | None, reach: Reach) -> Place:
    from shoal.storage.places.git import GitRepository

    return GitRepository(access, reach=reach)


def _check_git(uri: str) -> None:
    from shoal.storage.places.git import check_git_uri

    check_git_uri(uri)


def _mlflow(access: Access | None, reach: Reach, credentials: Credentials) -> Place:
    """It leads to other places, as whom their default credentials say."""
    from shoal.storage.places.mlflow_registry import MlflowRegistry
    from shoal.storage.places.mlflow_server import TrackingServer

    server = TrackingServer(access, reach)
    return MlflowRegistry(server, lambda at: place_for(at, credentials, reach=reach))


def _check_mlflow(uri: str) -> None:
    from shoal.storage.places.mlflow_registry import check_mlflow_uri

    check_mlflow_uri(uri)


_OBJECTS: Final = {
    each: _Kind(each, each, _object_store, check_bucket_uri) for each in ("s3", "gcs", "azure")
}
_SIGNED: Final = _Kind("azure, signed", "azure", functools.partial(_object_store, nested=False),
                       check_bucket_uri, shared=False)
_WEB: Final = _Kind("web", "http", _web, _check_web, shared=False)
_GIT: Final = _Kind("git", "git", _git, _check_git)

_MLFLOW: Final = _Kind("mlflow", "mlflow", None, _check_mlflow)

_KINDS: Final[dict[str, _Kind]] = {
    **{scheme: _OBJECTS[kind] for scheme, kind in SCHEMES.items()},
    "http": _WEB,
    "https": _WEB,
    "hf": _Kind("hub", "hf", _hub, _check_hub),
    "oci": _Kind("registry", "oci", _registry, _check_registry),
    "models": _MLFLOW,
    "runs": _MLFLOW,
    "mlflow-artifacts": _MLFLOW,
    "git+https": _GIT,
    "git+http": _GIT,  # of this machine alone
}

_KEPT: Final = _Kept()
