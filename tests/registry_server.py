"""A real registry of images in a process of its own, Debian's package `docker-registry`, and what
pushes to it over plain HTTP."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

from tests.program import running

START_S = 20.0
_LISTENS = re.compile(r'listening on ([^"]+)"')
USER, PASSWORD = "reader", "open sesame"
_HTPASSWD = f"{USER}:$2b$04$HuR8BEP8DxvqbqRjH1IwfeRdpAB2P09ciCvikjh.VPfmjYGuWcp4S\n"

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
TITLE = "org.opencontainers.image.title"

Descriptor = dict[str, object]


class RegistryServer:
    """host: with its port. guarded: only `USER` may do anything."""

    def __init__(self, host: str, guarded: bool) -> None:
        self.host = host
        self._headers = {}
        if guarded:
            pair = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            self._headers["Authorization"] = f"Basic {pair}"

    def blob(self, repository: str, data: bytes, media_type: str = LAYER,
             annotations: Mapping[str, str] | None = None) -> Descriptor:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        upload = self._send("POST", f"/v2/{repository}/blobs/uploads/", b"")
        joint = "&" if "?" in upload else "?"
        self._send("PUT", f"{upload}{joint}digest={digest}", data)
        found: Descriptor = {"mediaType": media_type, "digest": digest, "size": len(data)}
        return {**found, "annotations": dict(annotations)} if annotations else found

    def manifest(self, repository: str, tag: str, *layers: Descriptor) -> Descriptor:
        """An image or artifact of these layers; its descriptor."""
        config = self.blob(repository, b"{}", "application/vnd.oci.image.config.v1+json")
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        return self.document(repository, tag, MANIFEST, document)

    def document(self, repository: str, tag: str, media_type: str, document: object) -> Descriptor:
        body = json.dumps(document).encode()
        self._send("PUT", f"/v2/{repository}/manifests/{tag}", body, media_type)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        return {"mediaType": media_type, "digest": digest, "size": len(body)}

    def files(self, repository: str, tag: str, files: Mapping[str, bytes]) -> Descriptor:
        """As `oras push` does."""
        return self.manifest(repository, tag, *(
            self.blob(repository, data, "application/vnd.oci.image.layer.v1.tar", {TITLE: name})
            for name, data in files.items()))

    def image(self, repository: str, tag: str, *layers: bytes) -> Descriptor:
        return self.manifest(repository, tag, *(self.blob(repository, data) for data in layers))

    def _send(self, method: str, path: str, body: bytes,
              media_type: str = "application/octet-stream") -> str:
        """Where it says that the thing is."""
        url = urljoin(f"http://{self.host}", path)
        headers = {"Content-Type": media_type, **self._headers}
        asked = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return str(answer.headers["Location"])


def packed(files: Mapping[str, bytes | None], links: Mapping[str, str] | None = None,
           mode: str = "w:gz") -> bytes:
    """A layer. files: None: a folder. links: symbolic ones."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            member.size = len(data or b"")
            tar.addfile(member, io.BytesIO(data or b""))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return out.getvalue()


@contextmanager
def registry_server(folder: Path, *, guarded: bool = False) -> Iterator[RegistryServer]:
    (folder / "htpasswd").write_text(_HTPASSWD)
    auth = f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n" if guarded else ""
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: info, formatter: json}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f'http: {{addr: "127.0.0.1:0", secret: test}}\n{auth}')
    command = ["docker-registry", "serve", str(folder / "config.yml")]
    with running(command, folder, _LISTENS, START_S) as host:
        yield RegistryServer(host, guarded)
