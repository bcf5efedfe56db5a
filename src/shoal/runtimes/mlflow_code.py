"""Lets an MLflow model run the code that was saved with it, without another model's seeing it.

MLflow puts the folder first on `sys.path` and leaves it there, so that a second model, or the next
version of the same, would run the first one's modules. It hands the model of a script over in a
global variable, and keeps the script's module for ever. Here each copy's modules are its own, found
under their plain names only while it loads: by pickles and loaders, and afterwards by each other
(see `local_imports`). What a model defines outside them, in a script or a pickle, cannot import
them any more when it predicts.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

from shoal.runtimes.local_imports import LocalPackage

_SCRIPT: Final = "code_model_"  # how MLflow's names of scripts' modules begin
_HANDED_OVER: Final = "__mlflow_model__"
_lock: Final = threading.Lock()  # plain names, and MLflow's variable, mean one copy at a time


class OwnCode:
    """The modules of one copy. folder: where its files are; None: it brings none."""

    def __init__(self, folder: Path | None, model: str) -> None:
        self._package = None if folder is None else LocalPackage(folder, model)
        self._scripts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self._package is not None

    def holds(self, name: str) -> bool:
        """Is the module `name` one of its files?"""
        return self._package is not None and self._package.holds(name)

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Within, its modules are found under their plain names, before all others; others that
        load wait."""
        with _lock:
            finder = _PlainNames(self._package)
            paths, before = list(sys.path), set(sys.modules)
            hidden = {name: sys.modules.pop(name) for name in before if finder.holds(name)}
            sys.meta_path.insert(0, finder)
            _forget_the_last()
            try:
                yield
            finally:
                _forget_the_last()
                sys.meta_path.remove(finder)
                for name in tuple(sys.modules):  # a copy: other threads import meanwhile
                    if finder.holds(name):
                        del sys.modules[name]
                sys.modules.update(hidden)
                for path in set(sys.path).difference(paths):
                    sys.path.remove(path)
                new = set(sys.modules).difference(before)
                self._scripts = tuple(name for name in new if name.startswith(_SCRIPT))

    def remove(self) -> None:
        """Forget its modules, and with them what they hold."""
        if self._package is not None:
            self._package.remove()
        for name in self._scripts:
            sys.modules.pop(name, None)


def _forget_the_last() -> None:
    """So that a script that hands nothing over does not get the model of another one."""
    mlflow = sys.modules.get("mlflow.models.model")
    if mlflow is not None:
        setattr(mlflow, _HANDED_OVER, None)


class _PlainNames(MetaPathFinder, Loader):
    """Answers `import features` with the package's `features`."""

    def __init__(self, package: LocalPackage | None) -> None:
        self._package = package
        self._known: dict[str, bool] = {}

    def holds(self, name: str) -> bool:
        if self._package is None:
            return False
        first = name.partition(".")[0]
        if first not in self._known:
            self._known[first] = self._package.holds(first)
        return self._known[first]

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if self.holds(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        """The import machinery takes what it finds in `sys.modules` afterwards."""
        assert self._package is not None
        name = module.__name__
        sys.modules[name] = importlib.import_module(f"{self._package.name}.{name}")
