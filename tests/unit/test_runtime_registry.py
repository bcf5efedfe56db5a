"""Which runtimes there are, and which one an artifact belongs to."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from shoal.domain.errors import RuntimeMissing, UnknownFormat
from shoal.ports import Artifact, LoadedModel
from shoal.runtimes import registry
from shoal.runtimes.registry import RuntimeRegistry

BUILT_IN = ("lightgbm", "onnx", "python", "pytorch", "sklearn", "xgboost")


@dataclass
class Fake:
    """Recognises files that begin with its mark."""

    format: str = "fake"
    mark: bytes = b"FAKE"
    suffixes: tuple[str, ...] = (".fake",)
    options: tuple[str, ...] | None = ()
    seen: int = 0

    def recognise(self, path: Path, head: bytes) -> bool:
        self.seen = len(head)
        return head.startswith(self.mark)

    def runs_code(self, path: Path) -> bool:
        return path.suffix == ".run"

    def load(self, artifact: Artifact) -> LoadedModel:
        raise NotImplementedError


def offer(monkeypatch: pytest.MonkeyPatch, points: Iterable[EntryPoint]) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda *, group: list(points))


def test_the_built_in_runtimes_are_installed() -> None:
    found = RuntimeRegistry.installed()
    assert set(BUILT_IN) <= set(found.formats())
    assert not found.problems


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(UnknownFormat, match=r"'fish' is not known; the formats are bird, fake"):
        RuntimeRegistry([Fake(), Fake("bird")]).get("fish")


def test_a_format_leads_to_its_runtime() -> None:
    runtime = Fake()
    assert RuntimeRegistry([runtime]).get("fake") is runtime


def test_only_the_first_bytes_of_a_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"FAKE" * 5_000)
    runtime = Fake()
    assert RuntimeRegistry([runtime]).recognise(path) == "fake"
    assert runtime.seen == 4096


def test_a_folder_has_no_head(tmp_path: Path) -> None:
    runtime = Fake(mark=b"")
    assert RuntimeRegistry([runtime]).recognise(tmp_path) == "fake"
    assert runtime.seen == 0


def test_runtimes_are_asked_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"FAKE")
    assert RuntimeRegistry([Fake("b"), Fake("a")]).recognise(path) == "b"


def test_nobody_claims_a_strange_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("buy milk")
    assert RuntimeRegistry.installed().recognise(path) is None
    assert RuntimeRegistry([]).recognise(path) is None


def test_a_file_that_is_gone_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RuntimeRegistry([Fake()]).recognise(tmp_path / "gone")


def test_whether_code_runs_is_the_runtimes_word() -> None:
    found = RuntimeRegistry([Fake()])
    assert found.runs_code("fake", Path("a.run"))
    assert not found.runs_code("fake", Path("a.fake"))
    with pytest.raises(UnknownFormat):
        found.runs_code("fish", Path("a"))


def test_a_runtime_that_cannot_be_imported_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, [
        EntryPoint("broken", "no.such.module:Runtime", registry.ENTRY_POINT_GROUP),
        EntryPoint("onnx", "shoal.runtimes.onnx:OnnxRuntime", registry.ENTRY_POINT_GROUP),
    ])
    found = RuntimeRegistry.installed()
    assert found.formats() == ("onnx",)
    assert list(found.problems) == ["broken"]
    assert "no.such.module:Runtime" in found.problems["broken"]
    with pytest.raises(RuntimeMissing, match="'broken'"):
        found.get("broken")


def test_a_runtime_that_cannot_be_constructed_is_a_problem(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, [EntryPoint("odd", "builtins:divmod", registry.ENTRY_POINT_GROUP)])
    assert list(RuntimeRegistry.installed().problems) == ["odd"]


def test_of_two_runtimes_of_a_format_the_first_is_kept() -> None:
    first, second = Fake(), Fake()
    found = RuntimeRegistry([first, second])
    assert found.get("fake") is first
    assert "already that of" in found.problems["Fake"]


def test_finding_runtimes_imports_no_framework() -> None:
    import subprocess

    code = (
        "import sys; from pathlib import Path;"
        "from shoal.runtimes.registry import RuntimeRegistry as R; r = R.installed();"
        f"r.recognise(Path({__file__!r})); [r.runs_code(f, Path('a')) for f in r.formats()];"
        "print(*({'sklearn', 'xgboost', 'lightgbm', 'onnxruntime', 'torch', 'pandas', 'joblib'}"
        " & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
