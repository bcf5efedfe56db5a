"""Knows which runtimes there are and to which of them an artifact belongs.

Imports no framework, and loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, cast

from shoal.domain.errors import RuntimeMissing, UnknownFormat
from shoal.domain.serving_runtime import DeclaredRuntime
from shoal.ports import Runtime

ENTRY_POINT_GROUP: Final = "shoal.runtimes"
HEAD_BYTES: Final = 4096


class RuntimeRegistry:
    """Runtimes by format.

    runtimes: asked in this order; of two with one format the first is kept and the other becomes
        a problem.
    problems: by the name of a runtime, why it cannot be used. They concern only that runtime.
    outside: gives the serving runtimes that are declared beside those here; none, until it is set.
    """

    def __init__(self, runtimes: Sequence[Runtime], problems: Mapping[str, str] | None = None
                 ) -> None:
        self.outside: Callable[[], Sequence[DeclaredRuntime]] = tuple
        self._by_format: dict[str, Runtime] = {}
        self._problems = dict(problems or {})
        for runtime in runtimes:
            kept = self._by_format.setdefault(runtime.format, runtime)
            if kept is not runtime:
                self._problems[type(runtime).__name__] = (
                    f"runtime {type(runtime).__module__}.{type(runtime).__name__} is not used: the "
                    f"format {runtime.format!r} is already that of {type(kept).__module__}."
                    f"{type(kept).__name__}; uninstall one of the two"
                )

    @classmethod
    def installed(cls) -> RuntimeRegistry:
        """All runtimes that installed packages offer in the entry-point group `shoal.runtimes`,
        ordered by name. One that fails to import or to construct becomes a problem."""
        found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
        runtimes: list[Runtime] = []
        problems: dict[str, str] = {}
        for name, point in sorted(found.items()):
            try:
                runtimes.append(cast("Runtime", point.load()()))
            except Exception as error:  # noqa: BLE001 - code of other packages; reported by name
                problems[name] = (
                    f"runtime {name!r} ({point.value}) cannot be used: {type(error).__name__}: "
                    f"{error}; reinstall or remove the package that offers it"
                )
        return cls(runtimes, problems)

    @property
    def problems(self) -> Mapping[str, str]:
        """Sentences for people, by the name of what cannot be used."""
        return self._problems

    def formats(self) -> tuple[str, ...]:
        """Known formats, sorted."""
        return tuple(sorted(self._by_format))

    def declared(self) -> Sequence[DeclaredRuntime]:
        """Serving runtimes outside, as they are declared now."""
        return self.outside()

    def get(self, format: str) -> Runtime:  # noqa: A002 - the domain's word
        """The runtime of `format`. Raises UnknownFormat naming the known ones, or RuntimeMissing
        when there is one that cannot be used."""
        runtime = self._by_format.get(format)
        if runtime is not None:
            return runtime
        if format in self._problems:
            raise RuntimeMissing(self._problems[format])
        raise UnknownFormat(
            f"format {format!r} is not known; the formats are {', '.join(self.formats())}"
        )

    def recognise(self, path: Path) -> str | None:
        """The format of the artifact at `path`, a file or a folder; None when no runtime claims it.

        Reads at most the first 4,096 bytes of a file. Raises OSError when it cannot be read.
        """
        head = b""
        if not path.is_dir():
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        for runtime in self._by_format.values():
            if runtime.recognise(path, head):
                return runtime.format
        return None

    def runs_code(self, format: str, path: Path) -> bool:  # noqa: A002
        """Can loading the artifact run code that it contains? Raises as `get` does."""
        return self.get(format).runs_code(path)
