"""Reads models of MLflow's registry, wherever its tracking server says that they lie.

    models:/NAME@ALIAS  models:/NAME/VERSION  models:/NAME/latest  models:/NAME/STAGE
    models:/MODEL_ID
    runs:/RUN/PATH
    mlflow-artifacts:/PATH

Aliases, stages and `latest` are resolved to the version that they mean now, which names the model
from then on. Knows neither what a server is asked over, nor the places it leads to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from shoal.domain.errors import ArtifactMissing, InvalidSpecification
from shoal.storage.names import lone_name, shown
from shoal.storage.places.mlflow_server import ServedArtifacts, TrackingServer
from shoal.storage.places.place import Files, Place, RemoteFile, Snapshot
from shoal.storage.uri import is_remote, split_scheme

_NAME: Final = r"[^/@#?\x00-\x1f]+"
_MODEL: Final = re.compile(rf"({_NAME})(?:@([^/@#?]+)|/([^/#?]+))?/?")
_RUN: Final = re.compile(r"([0-9A-Za-z_-]+)(?:/([^#?]+))?")
_PATH: Final = re.compile(r"[^#?]+")
_READY: Final = "READY"
_HOW: Final = ("write models:/NAME@ALIAS, models:/NAME/VERSION, models:/NAME/latest, "
               "models:/MODEL_ID, runs:/RUN/PATH or mlflow-artifacts:/PATH")


class _Version(msgspec.Struct):
    name: str
    version: str
    creation_timestamp: int | str = 0
    current_stage: str = ""
    status: str = _READY


class _AboutVersion(msgspec.Struct):
    model_version: _Version


class _Registered(msgspec.Struct):
    latest_versions: list[_Version] = []  # of each stage


class _AboutRegistered(msgspec.Struct):
    registered_model: _Registered


class _Artifacts(msgspec.Struct):
    artifact_uri: str


class _Logged(msgspec.Struct):
    info: _Artifacts


class _AboutLogged(msgspec.Struct):
    model: _Logged


class _AboutRun(msgspec.Struct):
    run: _Logged


@dataclass(frozen=True, slots=True)
class _Lead:
    """uri: always means this. version: other content, other version. at: where it lies."""

    uri: str
    version: str
    at: str


@dataclass(frozen=True, slots=True)
class _There:
    """Where a lead ended. files: as they are called there, by what they are called here."""

    place: Files
    snapshot: Snapshot
    files: dict[str, RemoteFile]


class MlflowRegistry:
    """See `Files`, for one URI, which `look` comes first with. follow: the place that a URI leads
    to. ranges: as that place says."""

    nested = False

    def __init__(self, server: TrackingServer, follow: Callable[[str], Place]) -> None:
        self._server = server
        self._follow = follow
        self._there: dict[str, _There] = {}
        self.ranges = False

    def look(self, uri: str) -> Snapshot:
        lead = self._lead(uri)
        place = self._place_at(lead)
        found = place.look(lead.at)
        if not isinstance(place, Files) or not found.files:
            raise InvalidSpecification(
                f"{uri}: the MLflow server {self._server.host} leads to {shown(lead.at)}, which is "
                "no folder of files; register that URI itself")
        files = {file.name or lone_name(lead.at): file for file in found.files}
        self._there[lead.uri] = _There(place, found, files)
        self.ranges = place.ranges
        return Snapshot(
            lead.uri,
            tuple(replace(file, name=name, tag=file.tag or lead.version, archive=False)
                  for name, file in files.items()),
            f"{lead.version} {found.version}".strip())

    def read(self, snapshot: Snapshot, file: RemoteFile, start: int = 0, end: int | None = None
             ) -> Iterator[bytes]:
        there = self._there[snapshot.uri]
        return there.place.read(there.snapshot, there.files[file.name], start, end)

    def _place_at(self, lead: _Lead) -> Place:
        if split_scheme(lead.at)[0] == "mlflow-artifacts":
            return ServedArtifacts(self._server)
        if not is_remote(lead.at):
            raise InvalidSpecification(
                f"{lead.uri}: the MLflow server {self._server.host} leads to {shown(lead.at)}, a "
                "path of its own machine; let it give its artifacts itself (mlflow server "
                "--serve-artifacts), or register that path")
        return self._follow(lead.at)

    # --- what a URI means -----------------------------------------------------------------------

    def _lead(self, uri: str) -> _Lead:
        scheme, rest = split_scheme(uri)
        check_mlflow_uri(uri)
        if scheme == "models":
            found = _MODEL.fullmatch(rest)
            assert found is not None
            name, alias, which = found.groups()
            return self._logged(uri, name) if not alias and not which else self._version(
                uri, name, alias, which)
        if scheme == "runs":
            return self._run(uri, rest)
        return _Lead(uri, "", uri)

    def _version(self, uri: str, name: str, alias: str | None, which: str | None) -> _Lead:
        """which: a version, `latest` or a stage."""
        server = self._server
        if alias:
            found = server.ask(
                uri, "registered-models/alias", _AboutVersion, name=name, alias=alias).model_version
        elif which is not None and which.isdecimal():
            found = server.ask(
                uri, "model-versions/get", _AboutVersion, name=name, version=which).model_version
        else:
            found = self._latest(uri, name, which or "latest")
        if found.status != _READY:
            raise ArtifactMissing(
                f"{uri}: version {found.version} is not ready in MLflow ({found.status}); wait for "
                "it, or register it there anew")
        at = server.ask(uri, "model-versions/get-download-uri", _Artifacts, name=name,
                        version=found.version).artifact_uri
        pinned = f"models:/{name}/{found.version}"
        if split_scheme(at)[0] == "models":  # a logged model, of an MLflow that does not resolve it
            at = self._lead_on(uri, at).at
        return _Lead(pinned, f"{name} {found.version} {found.creation_timestamp} {at}", at)

    def _lead_on(self, uri: str, at: str) -> _Lead:
        found = _MODEL.fullmatch(split_scheme(at)[1])
        if found is None or found[2] or found[3]:
            raise InvalidSpecification(
                f"{uri}: the MLflow server {self._server.host} leads on to {shown(at)}; register "
                "that URI itself")
        return self._logged(uri, found[1])

    def _latest(self, uri: str, name: str, which: str) -> _Version:
        told = self._server.ask(uri, "registered-models/get", _AboutRegistered, name=name)
        versions = told.registered_model.latest_versions
        if which.lower() != "latest":
            versions = [each for each in versions if each.current_stage.lower() == which.lower()]
        if not versions:
            raise ArtifactMissing(
                f"{uri}: the MLflow server {self._server.host} has no version of the model "
                f"{name!r} that is {which}; register one there, or name a version or an alias")
        return max(versions, key=lambda each: int(each.version))

    def _logged(self, uri: str, model_id: str) -> _Lead:
        at = self._server.ask(uri, f"logged-models/{model_id}", _AboutLogged).model.info
        return _Lead(f"models:/{model_id}", f"{model_id} {at.artifact_uri}", at.artifact_uri)

    def _run(self, uri: str, rest: str) -> _Lead:
        found = _RUN.fullmatch(rest.rstrip("/"))
        assert found is not None
        run = self._server.ask(uri, "runs/get", _AboutRun, run_id=found[1]).run.info
        at = f"{run.artifact_uri.rstrip('/')}/{found[2]}" if found[2] else run.artifact_uri
        return _Lead(uri.rstrip("/"), at, at)


def check_mlflow_uri(uri: str) -> None:
    """Raise InvalidSpecification for what cannot mean anything to MLflow."""
    scheme, rest = split_scheme(uri)
    form = {"models": _MODEL, "runs": _RUN, "mlflow-artifacts": _PATH}[scheme]
    slashes = uri.partition(":")[2]
    wrong = slashes.startswith("//") and scheme != "mlflow-artifacts"
    if wrong or not form.fullmatch(rest.rstrip("/")) or ".." in rest.split("/"):
        raise InvalidSpecification(f"uri {shown(uri)} names nothing that MLflow keeps; {_HOW}")
