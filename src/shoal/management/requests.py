"""What the operations take: query parameters and bodies, with their bounds.

The docstrings are what the OpenAPI document says of each.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from shoal.domain.model import ModelSpec
from shoal.domain.serving_runtime import ServingRuntime
from shoal.domain.views import State
from shoal.storage.places.fields import TYPES

MAX_BATCH: Final = 5_000
"""Models of one batch: some MiB of JSON, which is read and answered in some 10 ms beside the time
that the files and the registry take."""

Version = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=3600)]
Text = Annotated[str, msgspec.Meta(max_length=254)]
NonEmptyText = Annotated[str, msgspec.Meta(min_length=1, max_length=254)]
Batch = Annotated[list[ModelSpec], msgspec.Meta(max_length=MAX_BATCH)]
Names = Annotated[list[Text], msgspec.Meta(max_length=MAX_BATCH)]
# Values are checked where each field is known, whose errors show none of them.
Credentials = Annotated[dict[str, Any], msgspec.Meta(
    description="The type, and its fields: an entry of a `storage-config`.",
    extra_json_schema={
        "properties": {"type": {"enum": list(TYPES)}}, "required": ["type"],
        "additionalProperties": True,
    },
)]


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
    read: look at the files now; `false`: `format` and `digest` must be given, and are compared
        with the files when the model is loaded.
    """

    create: bool = False
    read: bool = True


class ReadQuery(msgspec.Struct, frozen=True):
    """Whether to look at files.

    read: look at the files now; `false`: `format` and `digest` must be given, and are compared
        with the files when the model is loaded.
    """

    read: bool = True


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
    instance: only events of this instance.
    """

    after: Seq = 0
    limit: Limit = 100
    model: NonEmptyText | None = None
    instance: NonEmptyText | None = None


class DrainQuery(msgspec.Struct, frozen=True):
    """How to drain.

    timeout_s: answer after so many seconds at most, though copies are left.
    undo: let it take its share again, instead.
    stop: end it afterwards, as SIGTERM does.
    """

    timeout_s: Seconds = 30
    undo: bool = False
    stop: bool = False


class DeleteRuntimeQuery(msgspec.Struct, frozen=True):
    """How to remove a serving runtime.

    force: also while models use it; they are served by another runtime that takes them, or have a
        problem until one does.
    """

    force: bool = False


class UnnamedServingRuntime(
    ServingRuntime, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """A ServingRuntime whose name may be left out or empty, since the path has it; every other
    field is as in ServingRuntime."""

    name: str = ""


class UnnamedModelSpec(
    ModelSpec, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """A ModelSpec whose name may be left out or empty, since the path has it; every other field is
    as in ModelSpec."""

    name: str = ""
