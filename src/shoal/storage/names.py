"""What files that come from elsewhere are called: here, and in messages.

Looks at names alone: nothing here touches a disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import unquote

_MAX_PART_BYTES: Final = 255  # what file systems take
_REGISTERED: Final = re.compile(r"models:/([^/@]+)(?:@[^/]+|/[^/]+)?", re.IGNORECASE)
_MAX_NAME_BYTES: Final = 2048  # leaves half of PATH_MAX for the folder it goes into
_SHOWN: Final = 5


def why_not_confined(name: str) -> str | None:
    """Why a file of this name, relative and with `/`, cannot be written below a folder; None: it
    can."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return "has a name that no file can have here"
    if not name or "\0" in name:
        return "has a name that no file can have"
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        return "lies outside of its folder"
    if "" in parts or "." in parts:
        return "has a name with empty parts"
    if len(encoded) > _MAX_NAME_BYTES or any(
            len(os.fsencode(part)) > _MAX_PART_BYTES for part in parts):
        return "has too long a name"
    return None


def why_not_together(names: Iterable[str]) -> str | None:
    """Why these files cannot lie in one folder: one name twice, or as a file and as a folder."""
    known: set[str] = set()
    for name in names:
        if name in known:
            return f"the name {in_words(name)} comes twice"
        known.add(name)
    for name in known:
        for above in folders_above(name):
            if above in known:
                return f"{in_words(above)} is both a file and a folder"
    return None


def folders_above(name: str) -> Iterator[str]:
    """Of `a/b/c`: `a/b`, then `a`."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def in_words(name: str) -> str:
    """A name out of a listing or an archive, in quotes, whatever it is."""
    return repr(name.encode("utf-8", "backslashreplace").decode())


def some(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def lone_name(uri: str) -> str:
    """What the file or folder at `uri` is called here: the last part of its path, or what MLflow's
    registry calls it."""
    path = uri.split("?")[0].split("#")[0].rstrip("/")
    registered = _REGISTERED.fullmatch(path)
    name = registered[1] if registered else unquote(path.rpartition("/")[2])
    return name if why_not_confined(name) is None and "/" not in name else "artifact"


def shown(uri: str) -> str:
    """`uri` without what may be secret in it: a user and password, and a signed query."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri.split("?")[0]
    host, slash, path = rest.split("?")[0].split("#")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
