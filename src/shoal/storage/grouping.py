"""Which of the names in a watched folder make one model together. Knows names only."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.domain.external_data import names_beside, owners_of
from shoal.storage.artifact import is_text
from shoal.storage.files import SIGNATURE_SUFFIX
from shoal.storage.formats import FormatFinder, known_suffixes, without_suffix
from shoal.storage.model_yaml import SUFFIXES as DESCRIPTION_SUFFIXES


class Grouping:
    """An entry is a folder, or a file with what lies beside it and belongs to it."""

    def __init__(self, finder: FormatFinder) -> None:
        self._suffixes = known_suffixes(finder)

    def default_name(self, entry: str) -> str:
        """What the model of a file is called when nothing in it says otherwise."""
        return without_suffix(entry, (*self._suffixes, *DESCRIPTION_SUFFIXES))

    def group(self, name: str) -> set[str]:
        """Every entry whose state a change of the file `name` may touch."""
        suffixes = (*self._suffixes, *DESCRIPTION_SUFFIXES)
        owners = {name, *owners_of(name), name.removesuffix(SIGNATURE_SUFFIX)}
        stems = {without_suffix(owner, suffixes) for owner in owners}
        return owners | stems | {stem + suffix for stem in stems for suffix in suffixes}

    def entries(self, present: Mapping[str, bool | None]) -> dict[str, tuple[str, ...]]:
        """Entries, sorted, each with the names of files beside it that belong to it."""
        stems = {without_suffix(name, self._suffixes) for name, is_folder in present.items()
                 if is_folder is False and not name.endswith(DESCRIPTION_SUFFIXES)}
        return {
            name: () if present[name] else self._attached(name, present)
            for name in sorted(present)
            if present[name] is not None and (
                present[name] or not self._belongs_elsewhere(name, stems, present)
            )
        }

    def _belongs_elsewhere(self, name: str, stems: set[str], present: Mapping[str, bool | None]
                           ) -> bool:
        """Is the file `name` a description of, or data beside, another entry, or none's?"""
        if any(name == stem + s for s in DESCRIPTION_SUFFIXES
               if (stem := name.removesuffix(s)) in stems):
            return True
        if any(present.get(owner) is False for owner in owners_of(name)):
            return True
        if name.endswith(SIGNATURE_SUFFIX):
            return True
        return is_text(name) and not name.lower().endswith(self._suffixes)

    def _attached(self, name: str, present: Mapping[str, bool | None]) -> tuple[str, ...]:
        return tuple(each for each in self.beside(name) if present.get(each) is not None)

    def beside(self, name: str) -> list[str]:
        stem = without_suffix(name, self._suffixes)
        return [*(stem + s for s in DESCRIPTION_SUFFIXES if stem + s != name),
                *names_beside(name), name + SIGNATURE_SUFFIX]
