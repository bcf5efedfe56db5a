"""Puts the commands together, and says how a failure ends: one line, and an exit code by kind."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final

import typer
from typer.core import TyperGroup

from shoal import __version__
from shoal.cli import explain, infer, models, render, status
from shoal.cli.serve import serve_command
from shoal.cli.target import DEFAULT_SERVER, Target
from shoal.domain.errors import (
    DeadlineExceeded,
    InvalidRequest,
    InvalidSpecification,
    NotFound,
    ShoalError,
    Unavailable,
)

INTERRUPTED: Final = 130
_CODES: Final[tuple[tuple[type[ShoalError], int], ...]] = (
    (NotFound, 3),
    (Unavailable, 4),
    (DeadlineExceeded, 4),
    (InvalidRequest, 5),
    (InvalidSpecification, 5),
)
_EPILOG: Final = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 unavailable or no connection, "
    "5 invalid input or specification, 130 interrupted."
)


def exit_code(error: ShoalError) -> int:
    """As the epilogue of the help says."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)


class Commands(TyperGroup):
    """Ends what fails in a command without a traceback."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except ShoalError as error:
            render.complain(error.message)
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has enough. What is buffered must not fail at exit again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None


app = typer.Typer(
    name="shoal",
    cls=Commands,
    help="Serve very many machine-learning models from little memory.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        render.say(f"shoal {__version__}")
        raise typer.Exit


@app.callback()
def target(
    context: typer.Context,
    server: Annotated[
        str,
        typer.Option(envvar="SHOAL_SERVER", metavar="URL", help="Address of the inference port."),
    ] = DEFAULT_SERVER,
    management: Annotated[
        str | None,
        typer.Option(
            envvar="SHOAL_MANAGEMENT",
            metavar="URL",
            help="Address of the management port; otherwise port 8082 of the server's host.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            envvar="SHOAL_TIMEOUT",
            metavar="SECONDS",
            min=0.001,
            help="Give up after so long; otherwise 60, and 300 where a load is waited for.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    # What the help says is the application's own text: this only keeps the options.
    context.obj = Target(server, management, timeout)


for _command, _panel in (
    (serve_command(), "Serving"),
    (models.models, "Models"),
    (models.register, "Models"),
    (models.unregister, "Models"),
    (models.load, "Models"),
    (models.unload, "Models"),
    (infer.infer, "Models"),
    (explain.explain, "Models"),
    (status.status, "System"),
    (status.top, "System"),
    (status.events, "System"),
    (status.instances, "System"),
    (status.settings, "System"),
):
    app.command(rich_help_panel=_panel)(_command)


def run() -> None:
    """Entry point of the script `shoal`."""
    try:
        app(prog_name="shoal")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:  # reported; a traceback is for developers
        if sys.flags.dev_mode:
            raise
        render.complain(
            f"{type(error).__name__}: {error}; this is a defect of Shoal, please report it "
            "('python -X dev -m shoal.cli.main' shows the traceback)"
        )
        sys.exit(1)


if __name__ == "__main__":
    run()
