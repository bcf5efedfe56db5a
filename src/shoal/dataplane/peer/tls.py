"""TLS between instances: both sides show a certificate of the same authority.

Host names are not compared: instances are known by their place in the registry, at addresses that
come and go; what counts is that the authority, which should be the mesh's own, has signed.
Must not know who is linked.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from shoal.domain.errors import InvalidSpecification
from shoal.settings import MeshSettings


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate (with its chain), its key, the authorities of the others."""

    cert: Path
    key: Path
    ca: Path


def tls_files(settings: MeshSettings) -> TlsFiles | None:
    """None: links are plain. Raises InvalidSpecification where only some files are named."""
    names = {
        "mesh.cert_file": settings.cert_file, "mesh.key_file": settings.key_file,
        "mesh.ca_file": settings.ca_file,
    }  # fmt: skip
    missing = [name for name, file in names.items() if not file]
    if len(missing) == len(names):
        return None
    if missing:
        raise InvalidSpecification(
            f"TLS between instances also needs {' and '.join(missing)}; name all three files, or "
            "none to do without"
        )
    return TlsFiles(*(Path(file).expanduser() for file in names.values()))


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For `PeerServer.listen`. Raises InvalidSpecification when a file cannot be used."""
    return _context(ssl.PROTOCOL_TLS_SERVER, files)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For `PeerLinks`. Raises InvalidSpecification when a file cannot be used."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def _context(side: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # nobody older is to be served
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(files.cert, files.key)
    except OSError as error:
        raise InvalidSpecification(
            f"the certificate {files.cert} with the key {files.key} cannot be used: "
            f"{_cause(error)}; check mesh.cert_file and mesh.key_file"
        ) from error
    try:
        context.load_verify_locations(cafile=files.ca)
    except OSError as error:
        raise InvalidSpecification(
            f"the authorities in {files.ca} cannot be used: {_cause(error)}; check mesh.ca_file"
        ) from error
    return context


def _cause(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return getattr(error, "reason", None) or "they are no PEM files that belong together"
    return error.strerror or str(error)
