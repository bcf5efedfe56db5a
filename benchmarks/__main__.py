"""Runs one benchmark by name; without a name lists them."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

from benchmarks import machine


def benchmarks() -> dict[str, str]:
    """Names, and the first lines of their docstrings: the modules here that have a `main`."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = ast.parse(path.read_text())
        if any(isinstance(part, ast.FunctionDef) and part.name == "main" for part in module.body):
            found[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return found


def main() -> None:
    names = benchmarks()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: python -m benchmarks NAME [options]\n")
        for name, line in names.items():
            print(f"{name:>12}  {line}")
        return
    name = sys.argv.pop(1).replace("-", "_")
    if name not in names:
        sys.exit(f"there is no benchmark {name!r}; there are {', '.join(names)}")
    if not {"-h", "--help"} & set(sys.argv):
        print(f"{name}\n{machine.describe()}\n", flush=True)
    try:
        importlib.import_module(f"benchmarks.{name}").main()
    except RuntimeError as error:
        sys.exit(f"{name}: {error}")


if __name__ == "__main__":
    main()
