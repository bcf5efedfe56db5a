"""Imports a model's own Python files so that no two copies see each other's.

Every copy gets a package of its own, named uniquely; its files are modules of that package. In them
`import prices` finds `prices.py` beside the model first, so files import each other as in a script,
and two models may each have their own `prices.py`. Nothing is added to `sys.path`, and no compiled
file is written beside the sources, which would change the artifact.

Only `import` statements of local files see local files. A pickle that names one of their classes
does not: it looks its module up in `sys.modules` under the plain name, one table for the process,
in which two models' `prices` cannot both stand. Putting it there for as long as a model loads would
make every other load wait, and miss what is unpickled later.
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

_PREFIX: Final = "_shoal_model_"
_numbers = itertools.count(1)


class LocalPackage:
    """The Python files of one copy. `name`: of its package in `sys.modules`."""

    def __init__(self, folder: Path, model: str) -> None:
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
        self.folder = folder
        self.name = f"{_PREFIX}{next(_numbers)}_{re.sub(r'[^0-9A-Za-z]', '_', model)}"
        package = ModuleType(self.name, f"Files of the model {model}.")
        package.__path__ = [str(folder)]
        package.__package__ = self.name
        sys.modules[self.name] = package

    def import_module(self, name: str) -> ModuleType:
        """The local module `name` (`model`, `parts.features`). Raises whatever its code raises, and
        ModuleNotFoundError when there is no such file."""
        return importlib.import_module(f"{self.name}.{name}")

    def holds(self, name: str) -> bool:
        """Does `name` (`features`, `parts.features`) begin at a local module?"""
        first = name.partition(".")[0]
        return _finder.find_spec(f"{self.name}.{first}", [str(self.folder)]) is not None

    def remove(self) -> None:
        """Take all its modules out of `sys.modules`."""
        for name in tuple(sys.modules):  # a copy: other threads import meanwhile
            if name.split(".", 1)[0] == self.name:
                del sys.modules[name]


class _Finder(MetaPathFinder):
    """Finds modules of local packages, and nothing else."""

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        if not fullname.startswith(_PREFIX) or path is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
            spec.cached = None
        return spec


class _Loader(SourceFileLoader):
    """Compiles from the source and lets the module's imports look beside it first."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.split(".", 1)[0]
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importer(package)}
        super().exec_module(module)


class _Importer:
    """Replaces `__import__` for the modules of one package."""

    def __init__(self, package: str) -> None:
        self._package = package

    def __call__(self, name: str, globals: Mapping[str, object] | None = None,  # noqa: A002
                 locals: Mapping[str, object] | None = None,  # noqa: A002
                 fromlist: Sequence[str] | None = (), level: int = 0) -> ModuleType:
        first = name.split(".", 1)[0]
        if level == 0 and self._is_local(first):
            found = builtins.__import__(f"{self._package}.{name}", globals, locals,
                                        fromlist or (), 0)
            return found if fromlist else sys.modules[f"{self._package}.{first}"]
        return builtins.__import__(name, globals, locals, fromlist or (), level)

    def _is_local(self, name: str) -> bool:
        full = f"{self._package}.{name}"
        if full in sys.modules:
            return True
        package = sys.modules.get(self._package)
        return package is not None and _finder.find_spec(full, list(package.__path__)) is not None


def _importer(package: str) -> _Importer:
    return _Importer(package)


_finder: Final = _Finder()
