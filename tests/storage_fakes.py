"""What tests of `storage` stand on: formats told by suffix, and a clock that is held still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.domain.errors import UnknownFormat
from shoal.domain.serving_runtime import DeclaredRuntime


@dataclass(frozen=True)
class SuffixFormat:
    suffixes: tuple[str, ...]


_BY_NAME: Final = {
    "lightgbm": SuffixFormat((".txt", ".bst")),
    "onnx": SuffixFormat((".onnx",)),
    "python": SuffixFormat((".py",)),
    "pytorch": SuffixFormat((".pt",)),
    "sklearn": SuffixFormat((".joblib", ".pkl")),
    "xgboost": SuffixFormat((".ubj", ".model")),
}


class SuffixFinder:
    """A few formats by suffix; `.txt` only with LightGBM's first line; Python as `model.py`, or the
    folder that holds it. servers: the serving runtimes that are declared."""

    def __init__(self, *servers: DeclaredRuntime) -> None:
        self.servers = servers

    def declared(self) -> Sequence[DeclaredRuntime]:
        return self.servers

    def recognise(self, path: Path) -> str | None:
        if path.is_dir():
            return "python" if (path / "model.py").is_file() else None
        head = path.read_bytes()[:4]
        if path.name == "model.py":
            return "python"
        if path.suffix == ".txt":
            return "lightgbm" if head == b"tree" else None
        return next((name for name, known in _BY_NAME.items()
                     if path.suffix in known.suffixes and name != "python"), None)

    def formats(self) -> tuple[str, ...]:
        return tuple(_BY_NAME)

    def runs_code(self, format: str, path: Path) -> bool:  # noqa: A002
        return format in ("sklearn", "python")

    def get(self, format: str) -> SuffixFormat:  # noqa: A002
        if format not in _BY_NAME:
            raise UnknownFormat(
                f"format {format!r} is not known; the formats are {', '.join(_BY_NAME)}"
            )
        return _BY_NAME[format]


class HeldClock:
    """Moves when it is told to. `wall_s` is far in the future, so that all files are old."""

    def __init__(self, wall_s: float = 4e9) -> None:
        self.now_s = 100.0
        self.wall_s = wall_s

    def monotonic(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.wall_s

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds
        self.wall_s += seconds

    async def sleep(self, seconds: float) -> None:
        self.pass_(seconds)


def put(path: Path, content: str | bytes = b"weights") -> Path:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
