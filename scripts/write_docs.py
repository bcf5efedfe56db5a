"""Writes the reference pages that follow from the code: docs/settings.md, metrics.md and cli.md.

    python scripts/write_docs.py

`tests/test_docs.py` fails while a page is not what this writes. Decides how the pages look; what
they say is said in `shoal.settings`, `shoal.observability.metric_names` and `shoal.cli`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from shoal.cli.main import app
from shoal.cli.render import size
from shoal.observability.metric_names import METRICS
from shoal.settings import SettingField, Settings, setting_fields

Parameter: TypeAlias = TyperArgument | TyperOption

DOCS: Final = Path(__file__).parent.parent / "docs"
_GENERATED: Final = "<!-- Written by scripts/write_docs.py. Change the code it reads, not this. -->"

_SETTINGS: Final = """\
Every setting is three things: a flag of `shoal serve`, a variable of the environment, and a key of
the YAML file that `--config` (or `SHOAL_CONFIG`) names. A flag wins over a variable, a variable
over the file, the file over the default. The three names follow from each other:

| where | form | example |
|---|---|---|
| flag | `--group-name` | `--cache-fill-share 0.5` |
| environment | `SHOAL_GROUP_NAME` | `SHOAL_CACHE_FILL_SHARE=0.5` |
| file | `name` under `group` | see below |

```yaml
# shoal.yaml: shoal serve models --config shoal.yaml
memory: 4GiB
cache:
  fill_share: 0.5
trust:
  locations: /srv/models,/srv/more
```

A name that is none of these settings is refused, wherever it is said: a misspelt setting never
passes for one that works. A switch is turned on by its flag and off by `--no-` and the rest of the
flag, elsewhere by `true` and `false`. Sizes are bytes or have a unit: `512MiB`, `2GiB`, `1.5GB`.

`shoal settings` shows what a running server goes by and where each value was said;
`shoal settings --changed` only what was said anywhere.
"""

_METRICS: Final = """\
The management port serves these at `/metrics`, in Prometheus' text format or, if the `Accept`
header prefers it, in OpenMetrics. Beside them are the process metrics of the Prometheus client
(`process_…`, `python_…`). Counters count from the start of the process.

`metrics.per_model` and `metrics.max_models` ([settings](settings.md#metrics)) bound how many models
get series of their own. [Operations](operations.md#metrics) has queries worth an alert.
"""

_CLI: Final = """\
`shoal serve` runs a server; every other command asks one. They find it at `http://127.0.0.1:8080`,
and its management port at 8082 of the same host, unless told otherwise:

```sh
shoal --server http://models:9000 --management http://models:9002 status
```

Options of `shoal` itself stand before the command. With `--json` a command prints the answer of the
API as one document, for programs.
"""


def settings_page() -> str:
    """docs/settings.md."""
    lines = ["# Settings", "", _GENERATED, "", _SETTINGS]
    for group in dict.fromkeys(field.group for field in setting_fields()):
        fields = [field for field in setting_fields() if field.group == group]
        lines += [f"## {group or 'The instance'}", ""]
        if group:
            lines += [_about(group), ""]
        lines += _table(("key", "flag", "kind", "default", "meaning"), map(_setting, fields))
    return "\n".join(lines)


def metrics_page() -> str:
    """docs/metrics.md."""
    lines = ["# Metrics", "", _GENERATED, "", _METRICS]
    lines += _table(
        ("name", "type", "labels", "unit", "meaning"),
        (
            (f"`{each.name}`", each.type, ", ".join(f"`{label}`" for label in each.labels),
             each.unit, each.meaning)
            for each in METRICS
        ),
    )
    return "\n".join(lines)


def cli_page() -> str:
    """docs/cli.md."""
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    epilog = " ".join((program.epilog or "").split())
    lines = ["# Command line", "", _GENERATED, "", _CLI, epilog, "", "## shoal", ""]
    lines += _parameters("option", _of(program))
    for name, command in commands_of(program):
        lines += _command(name, command)
    return "\n".join(lines)


def commands_of(group: TyperGroup, above: str = "") -> Iterator[tuple[str, TyperCommand]]:
    """All commands, with the words that call each."""
    for word, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands_of(command, f"{above}{word} ")
        else:
            assert isinstance(command, TyperCommand)
            yield f"{above}{word}", command


PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings.md": settings_page, "metrics.md": metrics_page, "cli.md": cli_page,
}
"""Each page's name in docs/, and what makes it."""


# --- settings -----------------------------------------------------------------------------------


def _about(group: str) -> str:
    kind = Settings.model_fields[group].annotation
    return " ".join((inspect.getdoc(kind) or "").split())


def _setting(field: SettingField) -> tuple[str, ...]:
    kind = field.kind
    if "|" in kind:
        kind = ", ".join(f"`{word}`" for word in kind.split("|"))
    return f"`{field.path}`", f"`{field.flag}`", kind, _default(field), field.doc


def _default(field: SettingField) -> str:
    if field.is_bool:
        return "on" if field.default else "off"
    if field.default in ("", None):
        return "empty"
    if field.kind == "size" and isinstance(field.default, int) and field.default:
        return size(field.default).replace(".0 ", " ")
    return f"`{field.default}`"


# --- commands -----------------------------------------------------------------------------------


def _command(name: str, command: TyperCommand) -> Iterator[str]:
    yield from (f"## shoal {name}", "")
    yield from (*_paragraphs(command.help or ""), "")
    shown = _of(command)
    if name == "serve":
        flags = {field.flag for field in setting_fields()}
        shown = [each for each in shown if not flags.intersection(each.opts)]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    options = [each for each in shown if each.param_type_name == "option"]
    yield from _parameters("argument", arguments)
    yield from _parameters("option", options)
    if name == "serve":
        yield from ("Beside these every [setting](settings.md) is an option.", "")


def _of(command: TyperCommand | TyperGroup) -> list[Parameter]:
    return [each for each in command.params if isinstance(each, TyperArgument | TyperOption)]


def _paragraphs(text: str) -> Iterator[str]:
    for index, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if index:
            yield ""
        yield " ".join(paragraph.split())


def _parameters(kind: str, parameters: Sequence[Parameter]) -> Iterator[str]:
    rows = [(_spelling(each), _meaning(each)) for each in parameters]
    if rows:
        yield from _table((kind, "meaning"), rows)


def _spelling(parameter: Parameter) -> str:
    value = parameter.metavar or ""
    if parameter.param_type_name == "argument":
        more = "…" if parameter.nargs == -1 else ""
        return f"`{value}{more}`" if parameter.required else f"`[{value}{more}]`"
    if not value and not getattr(parameter, "is_flag", False):
        value = "VALUE"
    if parameter.name in ("install_completion", "show_completion"):
        value = ""
    spelt = [*parameter.opts, *parameter.secondary_opts]
    return ", ".join(f"`{each} {value}`" if value else f"`{each}`" for each in spelt)


def _meaning(parameter: Parameter) -> str:
    said = [" ".join((parameter.help or "").split())]
    default = parameter.default
    if default not in (None, False, "") and not isinstance(default, bool):
        said.append(f"Default: `{default}`.")
    elif isinstance(default, bool) and parameter.secondary_opts:
        spelt = (parameter.opts if default else parameter.secondary_opts)[0]
        said.append(f"Default: `{spelt}`.")
    if parameter.envvar:
        said.append(f"In the environment: `{parameter.envvar}`.")
    return " ".join(said)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def main() -> None:
    for name, write in PAGES.items():
        (DOCS / name).write_text(write(), encoding="utf-8")


if __name__ == "__main__":
    main()
