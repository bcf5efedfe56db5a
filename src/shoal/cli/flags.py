"""Gives a command its parameters from a dataclass, so that its function takes them as one object.

Typer reads a command's parameters from the function's signature; knows no command.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Flags = TypeVar("Flags", bound=DataclassInstance)
else:
    Flags = TypeVar("Flags")


def taking(
    kind: type[Flags],
) -> Callable[[Callable[[typer.Context, Flags], None]], Callable[..., None]]:
    """Each field of `kind`, annotated for Typer, becomes a parameter of the command, in the order
    of the fields and with their defaults."""

    def decorate(command: Callable[[typer.Context, Flags], None]) -> Callable[..., None]:
        def run(context: typer.Context, **given: object) -> None:
            command(context, kind(**given))

        hints = get_type_hints(kind, include_extras=True)
        given = [
            parameter(field.name, hints[field.name], _default(field))
            for field in dataclasses.fields(kind)
        ]
        return declare(run, command, [parameter("context", typer.Context), *given])

    return decorate


def parameter(
    name: str, annotation: object, default: object = inspect.Parameter.empty
) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def declare(
    run: Callable[..., None],
    command: Callable[..., None],
    parameters: Sequence[inspect.Parameter],
) -> Callable[..., None]:
    """`run` as Typer shall see it: the name and the words of `command`, and these parameters."""
    described: Mapping[str, object] = {
        "__name__": command.__name__,
        "__doc__": command.__doc__,
        "__signature__": inspect.Signature(list(parameters)),
        "__annotations__": {each.name: each.annotation for each in parameters},
    }
    for name, value in described.items():
        setattr(run, name, value)
    return run


def _default(field: dataclasses.Field[object]) -> object:
    return (
        inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    )
