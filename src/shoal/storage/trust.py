"""Decides whether an artifact that can run code may be loaded from where it lies.

Looks at locations and at what whoever registered it granted: what the code would do is for process
isolation, not for a scanner; what the artifact says of itself counts for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote

from shoal.domain.errors import NotTrusted
from shoal.storage.digest import parts_of
from shoal.storage.files import readable_name, reading, walk
from shoal.storage.uri import is_remote, split_scheme

# An alias, a stage or `latest` may mean any version of the model.
_ANY_VERSION: Final = re.compile(r"([^/@#]+)(?:@[^/#]+|/(?!\d+$)[^/#]+)")

_HOW: Final = (
    "if you trust it, list its folder in the setting trust.locations (--trust-locations, "
    "SHOAL_TRUST_LOCATIONS), or register it with 'trust: code', or 'trust: isolated'"
)


def check_trusted(uri: str, path: Path, format: str, locations: Iterable[str],  # noqa: A002
                  granted: Literal["data", "code", "isolated"] | None = None) -> None:
    """Raise NotTrusted when the artifact at `uri`, whose files are at `path` and run code when they
    are loaded, lies outside every one of `locations`, links resolved. Blocking.

    locations: folders or files (relative ones from the working directory, `~` is known), and URIs
    of what lies elsewhere. granted: by its registration: `code` and `isolated` wherever it
    lies, `data` nowhere. Raises ArtifactMissing or InvalidSpecification when the files cannot be
    looked at.
    """
    if granted in ("code", "isolated"):
        return
    if granted == "data":
        raise NotTrusted(
            f"{readable_name(uri)} is registered with 'trust: data', and loading the format "
            f"{format!r} from it can run code; register it without, or save it in a format that "
            "runs none"
        )
    known = [each for each in locations if each]
    if is_remote(uri):
        if not any(covers(each, uri) for each in known if is_remote(each)):
            raise _not_trusted(uri, "", format, known)
        return
    trusted = [Path(each).expanduser().resolve() for each in known if not is_remote(each)]
    with reading(path):
        files = [Path(file.path) for part in parts_of(path) for file in walk(part)]
        for file in [path, *files]:
            real = file.resolve(strict=True)
            if not any(real.is_relative_to(location) for location in trusted):
                leads = f" leads to {readable_name(real)} and" if real != file else ""
                raise _not_trusted(readable_name(file), leads, format, map(str, trusted))


def covers(location: str, uri: str) -> bool:
    """Is what lies at `uri` part of `location`, another URI?"""
    scheme, rest = split_scheme(location)
    its_scheme, its_rest = split_scheme(uri)
    rest = rest.rstrip("/")
    if scheme == "models" and (any_version := _ANY_VERSION.fullmatch(rest)):
        rest = any_version[1]
    if scheme != its_scheme or not its_rest.startswith(rest):
        return False
    if ".." in unquote(its_rest).replace("#", "/").split("/"):
        return False
    following = its_rest[len(rest) : len(rest) + 1]
    if scheme == "models":
        return not rest or following in ("", "/", "#", "@")
    # A tag or a path within may follow a repository's name, but never a host's: there they are
    # another port, or another host altogether.
    return following in ("", "/") or (following in ("#", "@", ":") and "/" in rest)


def _not_trusted(name: str, leads: str, form: str, locations: Iterable[str]) -> NotTrusted:
    return NotTrusted(
        f"{name}{leads} lies outside the trusted locations ({', '.join(locations) or 'none'}), and "
        f"loading the format {form!r} from it can run code; {_HOW}"
    )
