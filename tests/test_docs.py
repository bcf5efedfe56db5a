"""What the documentation says, against the code: links, commands, names, codes, examples."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml
from typer.core import TyperGroup

from shoal.cli.main import app
from shoal.codecs.errors import http_status
from shoal.domain.errors import ShoalError
from shoal.domain.model import ModelSpec
from shoal.domain.reasons import Reason
from shoal.domain.views import State
from shoal.management.api import Instance, Models, Places, Runtimes
from shoal.management.operation import operations_of
from shoal.observability.metric_names import METRICS
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import read_settings, setting_fields
from shoal.storage.model_yaml import parse_model_yaml

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path for folder in (".", "docs", "examples", "benchmarks")
    for path in (ROOT / folder).glob("*.md")
)


def group_of(program: object) -> TyperGroup:
    assert isinstance(program, TyperGroup)
    return program


PROGRAM = group_of(typer.main.get_command(app))
COMMANDS = {
    f"{word} {inner}".rstrip(): command
    for word, outer in PROGRAM.commands.items()
    for inner, command in (
        outer.commands.items() if isinstance(outer, TyperGroup) else [("", outer)])
}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")

# Beside ours: what stands in the pages for any setting.
OTHER_FLAGS = {"--group-name", "--no"}
OTHER_VARIABLES = {"SHOAL_GROUP_NAME"}
# `word.word` that looks like a setting and is a file.
FILES = {"http.client"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=named)


# --- pages written by the program ---------------------------------------------------------------


def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_docs", ROOT / "scripts/write_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["write_docs"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "metrics.md", "cli.md"])
def test_a_generated_page_is_what_its_program_writes(name: str) -> None:
    written = writer().PAGES[name]()
    assert text_of(f"docs/{name}") == written, "run scripts/write_docs.py"


def test_the_metrics_page_has_every_metric() -> None:
    page = text_of("docs/metrics.md")
    for metric in METRICS:
        assert f"`{metric.name}`" in page, f"run scripts/write_docs.py: {metric.name} is missing"
        assert metric.meaning in page, f"run scripts/write_docs.py: {metric.name} has changed"


def test_the_page_of_commands_has_every_option() -> None:
    page = text_of("docs/cli.md")
    settings = {flag for field in setting_fields() for flag in (field.flag, field.short_flag)}
    for name, command in COMMANDS.items():
        assert f"## shoal {name}\n" in page
        for parameter in command.params:
            for flag in parameter.opts if parameter.param_type_name == "option" else ():
                assert f"`{flag}" in page or flag in settings, f"shoal {name}: {flag} is missing"


# --- links --------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(found), f"{target}: no such heading"


# --- commands, flags and names ------------------------------------------------------------------


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `shoal …` in the page's blocks and code."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line.removeprefix("$ ")
        for language, block in FENCE.findall(text) if language in ("sh", "console")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    lines += [code for code in CODE.findall(FENCE.sub("", text)) if code.startswith("shoal ")]
    for line in lines:
        if line.startswith("shoal "):
            yield shlex.split(line, comments=True)[1:]


def options_of(words: list[str]) -> tuple[str | None, set[str]]:
    """The command that the words name, None for none, and every option that may stand there."""
    known = {each for parameter in PROGRAM.params for each in parameter.opts}
    said = [" ".join(words[at:at + length]) for at in range(len(words)) for length in (2, 1)]
    named = next((each for each in said if each in COMMANDS), None)
    if named is not None:
        for parameter in COMMANDS[named].params:
            known |= {*parameter.opts, *parameter.secondary_opts}
    return named, known


@every_page
def test_commands_have_the_options_that_are_shown(page: Path) -> None:
    for words in commands(page):
        name, known = options_of(words)
        said = [word for word in words if word.startswith("-")]
        assert name is not None or said or words[0].isupper(), f"shoal {' '.join(words)}"
        unknown = [word for word in said if word not in known]
        assert unknown == [], f"shoal {' '.join(words)}"


@every_page
def test_flags_exist(page: Path) -> None:
    known = {each for parameter in PROGRAM.params for each in parameter.opts}
    for command in COMMANDS.values():
        for parameter in command.params:
            known |= {*parameter.opts, *parameter.secondary_opts}
    for code in CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        unknown = set(FLAG.findall(code)) - known - OTHER_FLAGS
        assert not unknown or not code.startswith(("-", "shoal")), f"`{code}`"


@every_page
def test_variables_exist(page: Path) -> None:
    known = {field.variable for field in setting_fields()} | OTHER_VARIABLES
    known |= {"SHOAL_SERVER", "SHOAL_MANAGEMENT", "SHOAL_TIMEOUT", "SHOAL_CONFIG", "SHOAL_"}
    found = re.findall(r"SHOAL_[A-Z_]*", page.read_text(encoding="utf-8"))
    assert set(found) - known == set()


@every_page
def test_settings_exist(page: Path) -> None:
    paths = {field.path for field in setting_fields()}
    groups = {field.group for field in setting_fields() if field.group}
    for code in CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.fullmatch(r"[a-z]+\.[a-z_]+", code) and code.partition(".")[0] in groups:
            assert code in paths or code in FILES, f"`{code}` is no setting"


@every_page
def test_metrics_exist(page: Path) -> None:
    known = {metric.name for metric in METRICS}
    found = re.findall(r"\bshoal_[a-z_]+", page.read_text(encoding="utf-8"))
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}
    assert names - known - {"shoal_catboost"} == set()


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    blocks = "".join(block for language, block in FENCE.findall(text) if language == "sh")
    said = re.findall(r"^make ([a-z]+)", blocks, re.MULTILINE) + re.findall(r"`make ([a-z]+)", text)
    assert set(said) - targets == set()


@every_page
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    for code in CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.fullmatch(r"(src|tests|docs|examples|scripts|benchmarks)/[\w./-]*\w", code):
            assert (ROOT / code).exists(), f"`{code}` does not exist"


# --- examples -----------------------------------------------------------------------------------


@every_page
def test_examples_are_what_their_language_takes(page: Path) -> None:
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        match language:
            case "python":
                ast.parse(block)
            case "json":
                json.loads(block)
            case "toml":
                tomllib.loads(block)
            case "yaml" if block.startswith("# model.yaml"):
                parse_model_yaml(block, named(page))
            case "yaml":
                assert isinstance(yaml.safe_load(block), dict)


def test_the_example_of_a_settings_file_is_read(tmp_path: Path) -> None:
    (block,) = (
        block for language, block in FENCE.findall(text_of("docs/settings.md"))
        if language == "yaml"
    )
    file = tmp_path / "shoal.yaml"
    file.write_text(block)
    assert "file" in read_settings({}, {}, file).sources.values()


def test_the_python_model_shown_is_the_example() -> None:
    source = text_of("examples/python_model/model.py")
    assert source[source.index("class Model"):] in text_of("docs/models.md")


# --- what must be complete ----------------------------------------------------------------------


def kinds_of(kind: type[ShoalError]) -> Iterator[type[ShoalError]]:
    if kind.__module__ == "shoal.domain.errors":
        yield kind
    for child in kind.__subclasses__():
        yield from kinds_of(child)


def test_every_error_is_told_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.+?) \|", text_of("docs/protocols.md"), re.MULTILINE)
    told = {code: int(status) for status, codes in rows for code in CODE.findall(codes)}
    assert told == {kind.code: http_status(kind) for kind in kinds_of(ShoalError)}


def test_every_field_of_a_model_is_told() -> None:
    page = text_of("docs/models.md")
    assert [field for field in ModelSpec.__struct_fields__ if f"| `{field}`" not in page
            and f"`{field}`" not in page] == []


@pytest.mark.parametrize("name", ["README.md", "docs/models.md"])
def test_every_format_is_told_with_its_files(name: str) -> None:
    page = text_of(name)
    runtimes = RuntimeRegistry.installed()
    for name in runtimes.formats():
        assert name in page
        if name != "python":
            assert [s for s in runtimes.get(name).suffixes if f"`{s}`" not in page] == []


def test_every_state_and_reason_is_told() -> None:
    page = text_of("docs/cache.md")
    assert [state for state in State if f"`{state}`" not in page] == []
    causes = [
        reason for reason in Reason
        if reason.value.upper() not in {kind.code for kind in kinds_of(ShoalError)}
    ]
    known_elsewhere = {Reason.FAILED, Reason.OUT_OF_SERVICE, Reason.FELL_BACK}
    assert [r for r in causes if r not in known_elsewhere and f"`{r}`" not in page] == []


def test_every_operation_of_the_management_api_is_told() -> None:
    page = text_of("docs/management-api.md")
    for owner in (Models, Places, Runtimes, Instance):
        for operation in operations_of(owner(None)):  # type: ignore[arg-type]  # only looked at
            declared = operation.declared
            assert f"`{declared.method} {declared.path}`" in page


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    page = text_of("ARCHITECTURE.md")
    table = page[page.index("## Dependencies"):page.index("## Where to add")]
    names = [re.split(r"[<>=\[ ]", line)[0] for line in project["dependencies"]]
    assert [name for name in names if not re.search(rf"^\|[^|]*\b{name}\b", table, re.M)] == []


def test_every_package_has_its_line() -> None:
    page = text_of("ARCHITECTURE.md")
    table = page[page.index("## Packages"):page.index("## Decisions")]
    packages = [path.parent.name for path in (ROOT / "src/shoal").glob("*/__init__.py")]
    assert [name for name in packages if f"`{name}`" not in table] == []
