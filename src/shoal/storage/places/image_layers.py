"""Puts the layers of an image on each other, as far as its models lie in them.

Follows the OCI image specification's rules for layers and whiteouts. Files and folders only: see
`archives`. Knows no registry.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shoal.storage.archives import unpack

MODELS: Final = "models"
"""The folder in which KServe's "modelcar" images have the model."""

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


def add_layer(layer: Path, into: Path, go_on: Callable[[], None]) -> None:
    """Unpack what the archive `layer` has below /models, and put it into the folder `into`, over
    the layers below it: what it whites out is removed from there first.

    Raises as `unpack` does. Blocking.
    """
    gone: list[str] = []

    def keep(name: str) -> str | None:
        parts = name.removeprefix("/").split("/")
        whites_out = parts[-1].startswith(_WHITEOUT)
        if parts[0] != MODELS:
            if len(parts) == 1 and parts[0] in (_OPAQUE, f"{_WHITEOUT}{MODELS}"):
                gone.append(_OPAQUE)
            return None
        inside = "/".join(parts[1:])
        if whites_out:
            gone.append(inside)
            return None
        return inside

    unpacked = layer.with_name(f"{layer.name}.unpacked")
    try:
        unpack(layer, unpacked, go_on=go_on, keep=keep)
        for name in gone:
            go_on()
            _white_out(into, name)
        merge(unpacked, into, go_on)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _white_out(into: Path, name: str) -> None:
    folder, _, last = name.rpartition("/")
    if ".." in name.split("/"):
        return
    where = into / folder
    if last != _OPAQUE:
        if last.removeprefix(_WHITEOUT):
            _remove(where / last.removeprefix(_WHITEOUT))
        return
    for path in list(where.iterdir()) if where.is_dir() else ():
        _remove(path)


def merge(source: Path, into: Path, go_on: Callable[[], None]) -> None:
    """Move all that is in the folder `source` into the folder `into`, over what is there."""
    for top, folders, files in os.walk(source):
        go_on()
        target = into / Path(top).relative_to(source)
        for name in folders:
            if not (target / name).is_dir():
                _remove(target / name)
                (target / name).mkdir(mode=0o700)
        for name in files:
            if (target / name).is_dir():
                _remove(target / name)
            os.replace(Path(top, name), target / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
