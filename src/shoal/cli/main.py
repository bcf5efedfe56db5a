"""Puts the commands together, and says how a failure ends: one line, and an exit code by kind."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final

import typer
from typer.core import TyperGroup

from shoal import __version__
from shoal.cli import (
    credentials,
    explain,
    infer,
    instances,
    models,
    render,
    runtimes,
    simulate,
    status,
)
from shoal.cli.exit_codes import EPILOG, defect, exit_code
from shoal.cli.serve import serve_command
from shoal.cli.target import DEFAULT_SERVER, Target
from shoal.domain.errors import ShoalError

INTERRUPTED: Final = 130


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
    epilog=EPILOG,
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
        typer.Option(
            envvar="SHOAL_SERVER",
            metavar="URL",
            help="Address of the inference port; several with commas between.",
        ),
    ] = DEFAULT_SERVER,
    management: Annotated[
        str | None,
        typer.Option(
            envvar="SHOAL_MANAGEMENT",
            metavar="URL",
            help="Address of the management port, likewise; otherwise port 8082 of the server's "
            "host.",
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
    (instances.instances, "System"),
    (instances.drain, "System"),
    (status.settings, "System"),
    (simulate.simulate, "Planning"),
):
    app.command(rich_help_panel=_panel)(_command)
app.add_typer(credentials.app, name="credentials", rich_help_panel="System")
app.add_typer(runtimes.app, name="runtimes", rich_help_panel="System")


def run() -> None:
    """Entry point of the script `shoal`."""
    try:
        app(prog_name="shoal")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:  # reported; a traceback is for developers
        if sys.flags.dev_mode:
            raise
        render.complain(defect(error))
        sys.exit(1)


if __name__ == "__main__":
    run()
