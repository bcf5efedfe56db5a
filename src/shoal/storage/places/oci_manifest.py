"""Reads what a registry says an image or artifact consists of.

Follows the OCI image specification 1.1 and Docker's schema 2, which it came from. Pure.
"""

from __future__ import annotations

import platform
import re
from typing import Final

import msgspec

from shoal.domain.errors import InvalidArtifact, InvalidSpecification

TITLE: Final = "org.opencontainers.image.title"
_UNPACK: Final = "io.deis.oras.content.unpack"

_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPT: Final = ", ".join((*_MANIFESTS, *_INDEXES))

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class Platform(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class Layer(msgspec.Struct, frozen=True, rename="camel"):
    """A descriptor: of a blob, or of another manifest."""

    digest: str
    size: int
    media_type: str = ""
    annotations: dict[str, str] = {}
    platform: Platform | None = None

    @property
    def sha256(self) -> str:
        return self.digest.removeprefix("sha256:")

    @property
    def title(self) -> str:
        return self.annotations.get(TITLE, "")

    @property
    def is_packed_folder(self) -> bool:
        """Did ORAS pack a folder for it?"""
        return self.annotations.get(_UNPACK) == "true"


class _Document(msgspec.Struct, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: list[Layer] | None = None
    layers: list[Layer] | None = None


class Manifest(msgspec.Struct, frozen=True):
    """layers: from the bottom up."""

    layers: tuple[Layer, ...]

    @property
    def files(self) -> tuple[Layer, ...]:
        """The layers, where each is a file that has a name; else nothing."""
        named = all(layer.title and not layer.is_packed_folder for layer in self.layers)
        return self.layers if named else ()


def read_manifest(about: str, body: bytes) -> Manifest | list[Layer]:
    """A manifest, or the manifests among which is to be chosen. about: names it in messages.

    Raises InvalidArtifact."""
    try:
        document = msgspec.json.decode(body, type=_Document)
    except msgspec.DecodeError as error:
        raise InvalidArtifact(
            f"{about}: its manifest cannot be read: {error}; push it again") from error
    if document.schema_version != 2:
        raise InvalidArtifact(
            f"{about}: its manifest is of the schema {document.schema_version}, and only 2 is "
            "known; push it again with a present-day tool")
    named = document.layers if document.manifests is None else document.manifests
    if not named:
        raise InvalidArtifact(f"{about} is empty: no layers and no manifests; push it again")
    for layer in named:
        if not _DIGEST.fullmatch(layer.digest) or layer.size < 0:
            raise InvalidArtifact(
                f"{about}: its manifest names {layer.digest[:100]!r}, which is no SHA-256 digest "
                "with a size; push it again")
    return Manifest(tuple(named)) if document.manifests is None else named


def choose(about: str, manifests: list[Layer]) -> Layer:
    """The manifest for this machine; the only one whatever it is for.

    Raises InvalidSpecification when none is."""
    models = [each for each in manifests if each.platform is None or each.platform.os != "unknown"]
    if len(models) == 1:
        return models[0]
    machine = platform.machine()
    own = [each for each in models if each.platform is not None
           and each.platform.os == "linux"
           and each.platform.architecture == _MACHINES.get(machine, machine)]
    if own:
        return own[0]
    offered = ", ".join(
        f"{each.platform.os}/{each.platform.architecture} ({each.digest})" if each.platform
        else each.digest for each in models[:5])
    raise InvalidSpecification(
        f"{about} is several images, and none is for linux/{_MACHINES.get(machine, machine)}: "
        f"{offered or 'none that is for a platform'}; write the digest of one instead of the tag")
