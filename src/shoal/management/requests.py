"""What the operations take: query parameters and bodies, with their bounds.

The docstrings are what the OpenAPI document says of each.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from shoal.domain.model import ModelSpec
from shoal.domain.views import State

Version = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Text = Annotated[str, msgspec.Meta(max_length=254)]
NonEmptyText = Annotated[str, msgspec.Meta(min_length=1, max_length=254)]
Batch = Annotated[list[ModelSpec], msgspec.Meta(max_length=1000)]


class ModelsQuery(msgspec.Struct, frozen=True):
    """Which models.

    after: the name that the page begins behind; `next` of the page before.
    limit: models a page.
    state: only those in this state.
    contains: only those with this text in their names.
    format: only those of this format.
    label: only those with this label, as `key` or `key=value`.
    """

    after: Text | None = None
    limit: Limit = 100
    state: State | None = None
    contains: Text | None = None
    format: NonEmptyText | None = None
    label: NonEmptyText | None = None


class RegisterQuery(msgspec.Struct, frozen=True):
    """How to register.

    create: refuse with 409 when the name is taken, instead of replacing.
    """

    create: bool = False


class LoadQuery(msgspec.Struct, frozen=True):
    """What to load or unload.

    version: only this version; left out: load the default one, unload all.
    wait: answer when it is done, instead of when it is begun.
    """

    version: Version | None = None
    wait: bool = True


class EventsQuery(msgspec.Struct, frozen=True):
    """Which events.

    after: only events behind this `seq`; `next` of the page before.
    limit: events a page.
    model: only events of this model.
    """

    after: Seq = 0
    limit: Limit = 100
    model: NonEmptyText | None = None


class UnnamedModelSpec(
    ModelSpec, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """A ModelSpec whose name may be left out or empty, since the path has it; every other field is
    as in ModelSpec."""

    name: str = ""
