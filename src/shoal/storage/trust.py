"""Decides whether an artifact that can run code may be loaded from where it lies.

Looks at locations only: what the code would do is for process isolation, not for a scanner.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shoal.domain.errors import NotTrusted
from shoal.storage.digest import parts_of
from shoal.storage.files import readable_name, reading, walk


def check_trusted(path: Path, format: str, runs_code: bool,  # noqa: A002
                  locations: Iterable[Path | str]) -> None:
    """Raise NotTrusted when loading `path` can run code and any file of it lies, links resolved,
    outside every one of `locations`. Blocking.

    runs_code: the runtime's word about this artifact.
    locations: folders or files; relative ones from the working directory, `~` is known.
    Raises ArtifactMissing or InvalidSpecification when the files cannot be looked at.
    """
    if not runs_code:
        return
    trusted = [Path(each).expanduser().resolve() for each in locations if str(each)]
    with reading(path):
        files = [Path(file.path) for part in parts_of(path) for file in walk(part)]
        for file in [path, *files]:
            real = file.resolve(strict=True)
            if not any(real.is_relative_to(location) for location in trusted):
                raise _not_trusted(file, real, format, trusted)


def _not_trusted(file: Path, real: Path, form: str, trusted: list[Path]) -> NotTrusted:
    leads = f" leads to {readable_name(real)} and" if real != file else ""
    listed = ", ".join(str(location) for location in trusted) or "none"
    return NotTrusted(
        f"{readable_name(file)}{leads} lies outside the trusted locations ({listed}), and loading "
        f"the format {form!r} from it can run code; if you trust it, list its folder in the "
        "setting trust.locations (--trust-locations, SHOAL_TRUST_LOCATIONS)"
    )
