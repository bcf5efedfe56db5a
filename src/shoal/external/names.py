"""What copies are called in servers that hold models of one instance. Knows no server."""

from __future__ import annotations

import re
from typing import Final

from shoal.domain.model import Revision

_MOST: Final = 200  # of a model's name: the whole must be able to name a folder
_OURS: Final = re.compile(r".+__\d+-[0-9a-f]{12}")


def server_name(revision: Revision) -> str:
    """Tells revisions apart, and names a folder on every file system."""
    name, _, rest = revision.id.rpartition("@")
    return f"{name[:_MOST]}__{rest}"


def is_ours(name: str) -> bool:
    """Is it a name that `server_name` gives?"""
    return _OURS.fullmatch(name) is not None
