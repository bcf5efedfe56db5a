"""Tells URIs of artifacts on this machine from those elsewhere, and turns the former into paths.

Pure text: whether anything lies at the path is for `layout` to find out, what other schemes there
are for `places`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from shoal.domain.errors import InvalidSpecification

# MLflow writes its own with one slash.
_SCHEME: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9+.\-]*)://|(models|runs|mlflow-artifacts):/", re.IGNORECASE)
_SUPPORTED: Final = "a local path (relative, absolute, or under ~) or a file:// URI"

PVC_FOLDER: Final = Path("/pvc_mounts")
"""Where persistent volume claims are mounted, each under its name, as in ModelMesh."""


def is_remote(uri: str) -> bool:
    """Does it lie elsewhere than in this machine's files?"""
    return split_scheme(uri)[0] not in ("", "file", "pvc")


def split_scheme(uri: str) -> tuple[str, str]:
    """Its scheme in lower case, empty where it has none, and what follows the slashes."""
    found = _SCHEME.match(uri)
    if found is None:
        return "", uri
    return (found[1] or found[2]).lower(), uri[found.end() :]


def local_path(uri: str, *, base: Path | None = None) -> Path:
    """The absolute path that `uri` names. Symbolic links stay as they are, so that a link that is
    switched to another artifact is seen to change.

    base: the folder that a relative path is meant from; None: the working directory.
    Raises InvalidSpecification for other schemes, hosts, and what no path can be.
    """
    scheme, _ = split_scheme(uri)
    if uri[:5].lower() == "file:":
        text = _path_of_file_uri(uri)
    elif scheme == "pvc":
        text = _path_of_claim(uri)
    elif scheme:
        raise InvalidSpecification(
            f"uri {uri!r} does not lie in this machine's files; give {_SUPPORTED}"
        )
    else:
        text = uri
    if not text or "\0" in text:
        raise InvalidSpecification(f"uri {uri!r} names no path; give {_SUPPORTED}")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # ~user without such a user, or no home at all
        raise InvalidSpecification(
            f"uri {uri!r}: no home folder is known for it; give the absolute path"
        ) from error
    return path if path.is_absolute() else (base or Path.cwd()) / path


def _path_of_claim(uri: str) -> str:
    """`pvc://claim/path`, as in KServe."""
    claim, _, path = uri.partition("://")[2].partition("/")
    if not claim or ".." in (claim, *path.split("/")):
        raise InvalidSpecification(
            f"uri {uri!r} names no persistent volume claim; write pvc://CLAIM/PATH, with the claim "
            f"mounted at {PVC_FOLDER}/CLAIM"
        )
    return str(PVC_FOLDER / claim / path)


def _path_of_file_uri(uri: str) -> str:
    """Follows RFC 8089: an empty host or `localhost`, and an absolute, percent-encoded path."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise InvalidSpecification(f"uri {uri!r} cannot be read: {error}") from error
    if parts.netloc.lower() not in ("", "localhost"):
        raise InvalidSpecification(
            f"uri {uri!r} names the host {parts.netloc!r}; files are only read from this machine: "
            "write three slashes, as in file:///models/iris"
        )
    if parts.query or parts.fragment:
        raise InvalidSpecification(
            f"uri {uri!r} has a query or fragment; write '?' as %3F and '#' as %23 in a file:// URI"
        )
    if not parts.path.startswith("/"):
        raise InvalidSpecification(
            f"uri {uri!r} is relative; write file:///absolute/path, or the relative path alone"
        )
    return unquote(parts.path)
