"""The house rules that no linter knows: sizes, docstrings, settings' documentation."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.settings import setting_fields

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "shoal").rglob("*.py"))
MODULE_LINES = 500
FUNCTION_LINES = 70
PARAMETERS = 6
ARCHITECTURE_LINES = 300

# May only shrink.
LONG_FUNCTIONS: dict[str, str] = {}
MANY_PARAMETERS = {
    "src/shoal/domain/model.py:make_revision": "keyword-only facts of one artifact",
}
FORBIDDEN_NAMES = {"manager", "helper", "helpers", "utils", "util", "common", "misc"}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def where(path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return f"{path.relative_to(ROOT)}:{function.name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
class TestModule:
    def test_is_not_too_long(self, path: Path) -> None:
        assert len(path.read_text().splitlines()) <= MODULE_LINES

    def test_says_what_it_is_for(self, path: Path) -> None:
        assert ast.get_docstring(ast.parse(path.read_text())), "a module begins with its docstring"

    def test_has_a_name_that_says_something(self, path: Path) -> None:
        assert path.stem not in FORBIDDEN_NAMES

    def test_functions_are_not_too_long(self, path: Path) -> None:
        for function in functions(path):
            assert function.end_lineno is not None
            length = function.end_lineno - function.lineno + 1
            assert length <= FUNCTION_LINES or where(path, function) in LONG_FUNCTIONS, (
                f"{where(path, function)} has {length} lines"
            )

    def test_functions_take_few_parameters(self, path: Path) -> None:
        for function in functions(path):
            arguments = function.args
            names = [each.arg for each in
                     (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            count = len([name for name in names if name not in ("self", "cls")])
            assert count <= PARAMETERS or where(path, function) in MANY_PARAMETERS, (
                f"{where(path, function)} has {count} parameters"
            )


def test_architecture_stays_readable() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= ARCHITECTURE_LINES


def test_every_setting_is_documented() -> None:
    assert [field.path for field in setting_fields() if len(field.doc) < 20] == []


def test_the_settings_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    for field in setting_fields():
        assert f"`{field.flag}`" in page, f"run scripts/write_docs.py: {field.flag} is missing"
        assert field.doc in page, f"run scripts/write_docs.py: {field.path} has changed"
