"""Reads models from registries of images: `oci://registry[:port]/repository[:tag|@sha256:…]`.

Follows the OCI distribution specification 1.1. Two shapes are known:

- artifacts, each layer of which is a file with a title, as `oras push` makes them;
- images with the model below /models, as KServe's "modelcars".

What is pushed is named by its digest, and everything that comes is compared with that.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidSpecification,
    PlaceUnavailable,
    ShoalError,
)
from shoal.storage.archives import SUFFIXES, unpack
from shoal.storage.download import Options, download
from shoal.storage.names import in_words, why_not_confined, why_not_together
from shoal.storage.places.credentials import Access
from shoal.storage.places.image_layers import MODELS, add_layer, merge
from shoal.storage.places.oci_manifest import ACCEPT, Layer, Manifest, choose, read_manifest
from shoal.storage.places.place import RemoteFile, Snapshot
from shoal.storage.places.reach import Reach, trust_of
from shoal.storage.places.registry_login import Session, docker_login, host_of, login_of
from shoal.storage.places.web_client import Document, Patience, Request, WebClient, is_local
from shoal.storage.writing import Inside

_ADDRESS: Final = re.compile(
    r"(?P<registry>(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]+)?)/"
    r"(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?")
_MAX_DEPTH: Final = 3  # of manifests that name manifests
_MAX_LAYERS: Final = 10_000
_DOCKER_HUB: Final = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class _Where:
    """A parsed URI. reference: a digest, else a tag."""

    uri: str
    registry: str
    repository: str
    reference: str

    @property
    def scope(self) -> str:
        return f"repository:{self.repository}:pull"

    def at(self, digest: str) -> str:
        return f"oci://{self.registry}/{self.repository}@{digest}"


class OciRegistry:
    """See `Files` for artifacts, whose snapshots have files; `Whole` for images, whose have none.

    access: of the type `oci`; None: what `docker login` left. options: how layers are downloaded.
    """

    ranges = True
    nested = False

    def __init__(self, access: Access | None = None, patience: Patience | None = None,
                 reach: Reach | None = None, options: Options | None = None) -> None:
        self._access = access
        self._reach = reach or Reach()
        self._web = WebClient(patience, trust_of(access, self._reach))
        self._options = options or Options()
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def look(self, uri: str) -> Snapshot:
        where = _parse(uri)
        digest, manifest = self._manifest(where)
        return Snapshot(where.at(digest), _files(where, manifest), version=digest)

    def read(self, snapshot: Snapshot, file: RemoteFile, start: int = 0, end: int | None = None
             ) -> Iterator[bytes]:
        where = _parse(snapshot.uri)
        return self._blob(where, snapshot.named(file), f"sha256:{file.sha256}", start, end)

    def fetch(self, snapshot: Snapshot, into: Path, go_on: Callable[[], None]) -> None:
        """The layers lie beside `into` meanwhile, so that an interrupted download is gone on with.
        """
        where = _parse(snapshot.uri)
        _, manifest = self._manifest(where)
        layers = {f"{number:04}": layer for number, layer in enumerate(manifest.layers)}
        files = tuple(RemoteFile(name, layer.size, sha256=layer.sha256)
                      for name, layer in layers.items())
        folder = into.with_name(f"{into.name}.layers")
        download(self, Snapshot(snapshot.uri, files, snapshot.version), folder,
                 replace(self._options, go_on=go_on))
        for name, layer in layers.items():
            _unfold(where, layer, folder / name, into, go_on)
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder)
        if not any(into.iterdir()):
            raise ArtifactMissing(
                f"{where.uri} is an image without a folder /{MODELS}; put the model there, or push "
                "its files with `oras push`")

    # --- what the registry is asked -------------------------------------------------------------

    def _manifest(self, where: _Where) -> tuple[str, Manifest]:
        """With its digest, which names it for ever."""
        reference = where.reference
        for _ in range(_MAX_DEPTH):
            digest, body = self._document(where, reference)
            found = read_manifest(where.uri, body)
            if isinstance(found, Manifest):
                if len(found.layers) > _MAX_LAYERS:
                    raise InvalidArtifact(
                        f"{where.uri} has more than {_MAX_LAYERS:,} layers; pack the model alone")
                return digest, found
            reference = choose(where.uri, found).digest
        raise InvalidArtifact(f"{where.uri} names manifests of manifests of manifests; push it "
                              "again")

    def _document(self, where: _Where, reference: str) -> tuple[str, bytes]:
        url = f"{self._url(where)}/manifests/{reference}"
        session = self._session(where)
        answer = session.ask(where.uri, url, where.scope, ACCEPT)
        if answer.status != 200:
            raise self._refused(where, answer)
        digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        told = reference if ":" in reference else answer.headers.get("docker-content-digest", "")
        if told.startswith("sha256:") and told != digest:
            raise PlaceUnavailable(
                f"{where.uri}: what came for the manifest has the digest {digest}, but {told} is "
                "what it should be; is a proxy between?")
        return digest, answer.body

    def _blob(self, where: _Where, about: str, digest: str, start: int, end: int | None
              ) -> Iterator[bytes]:
        """Asks anew when it turns out that the token is too old."""
        url = f"{self._url(where)}/blobs/{digest}"
        session = self._session(where)
        for last in (False, True):
            challenged: list[Document] = []

            def refused(answer: Document, seen: list[Document] = challenged) -> ShoalError:
                seen.append(answer)
                return self._refused(where, answer)

            request = Request(about, url, session.headers(where.scope))
            try:
                yield from self._web.pieces(request, start, end, refused)
                return
            except ShoalError:
                may_ask_again = challenged and challenged[0].status == 401 and not last
                if not may_ask_again or not session.answer_challenge(
                        about, where.scope, challenged[0]):
                    raise

    def _session(self, where: _Where) -> Session:
        with self._lock:
            session = self._sessions.get(where.registry)
            if session is None:
                login = (docker_login(where.registry) if self._access is None
                         else login_of(self._access, where.registry))
                session = Session(
                    where.registry, login, self._web, plain=self._is_plain(where.registry))
                self._sessions[where.registry] = session
            return session

    def _url(self, where: _Where) -> str:
        scheme = "http" if self._is_plain(where.registry) else "https"
        registry = _DOCKER_HUB if where.registry == "docker.io" else where.registry
        return f"{scheme}://{registry}/v2/{where.repository}"

    def _is_plain(self, registry: str) -> bool:
        """Registries of this machine are asked with TLS where an authority is given for them."""
        if registry in self._reach.plain:
            return True
        named = self._access is not None and (
            self._access.get("certificate") or self._access.get("ca_bundle"))
        return is_local(registry) and not named

    def _refused(self, where: _Where, answer: Document) -> ShoalError:
        if answer.status in (401, 403):
            denied = self._session(where).denied(where.uri, answer.status)
            with self._lock:  # somebody may log in before it is tried again
                self._sessions.pop(where.registry, None)
            return denied
        if answer.status == 404:
            return ArtifactMissing(
                f"{where.uri}: {where.registry} has no {where.reference!r} in "
                f"{where.repository!r}; push it, or correct the address")
        return PlaceUnavailable(
            f"{where.uri}: {where.registry} answers with status {answer.status}, which no registry "
            "does for what may be read; is the address right?")


def check_registry_uri(uri: str) -> None:
    """Raise InvalidSpecification for what names no image or artifact."""
    _parse(uri)


def _parse(uri: str) -> _Where:
    match = _ADDRESS.fullmatch(uri.partition("://")[2])
    if match is None:
        raise InvalidSpecification(
            f"uri {uri!r} is no address of a registry; write oci://REGISTRY/REPOSITORY:TAG or "
            "oci://REGISTRY/REPOSITORY@sha256:DIGEST, the repository in lower case")
    registry, repository = host_of(match["registry"]), match["repository"]
    if registry == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    return _Where(uri, registry, repository, match["digest"] or match["tag"] or "latest")


def _files(where: _Where, manifest: Manifest) -> tuple[RemoteFile, ...]:
    layers = manifest.files
    for layer in layers:
        if reason := why_not_confined(layer.title):
            raise InvalidArtifact(f"{where.uri}: {in_words(layer.title)} {reason}; push it under "
                                  "another name")
    if reason := why_not_together(layer.title for layer in layers):
        raise InvalidArtifact(f"{where.uri}: {reason}; push it under another name")
    if len(layers) == 1 and layers[0].title.lower().endswith(SUFFIXES):
        return (RemoteFile("", layers[0].size, sha256=layers[0].sha256, archive=True),)
    files = [RemoteFile(layer.title, layer.size, sha256=layer.sha256) for layer in layers]
    return tuple(sorted(files, key=lambda file: file.name))


def _unfold(where: _Where, layer: Layer, blob: Path, into: Path, go_on: Callable[[], None]) -> None:
    """Put one layer onto those below it."""
    about = f"{where.uri}: layer {layer.digest[:19]}…"
    if layer.title and not layer.is_packed_folder:
        if reason := why_not_confined(layer.title):
            raise InvalidArtifact(f"{about}: {in_words(layer.title)} {reason}; push it anew")
        try:
            blob.replace(Inside(into).path_of(layer.title))
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            raise InvalidArtifact(f"{about}: {in_words(layer.title)} is both a file and a folder; "
                                  "push it anew") from error
        return
    try:
        if not layer.title:
            add_layer(blob, into, go_on)
            return
        unpacked = blob.with_name(f"{blob.name}.unpacked")
        unpack(blob, unpacked, go_on=go_on)
        merge(unpacked, into, go_on)
        shutil.rmtree(unpacked)
    except InvalidArtifact as error:
        raise InvalidArtifact(f"{about}: {error.message}") from error
