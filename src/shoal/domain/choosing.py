"""Decides which runtime loads a model, as KServe chooses among serving runtimes, and says why none
does.

Differs from KServe in two things: a protocol that is not said may be any (there it is v1), and a
format that a runtime lists without a version may have any. Must not know where declarations are
kept, nor how a runtime loads.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shoal.domain.errors import NoSupportingRuntime, RuntimeDisabled, RuntimeNotRecognized
from shoal.domain.model import ModelSpec
from shoal.domain.serving_runtime import (
    OWN,
    PROTOCOLS,
    DeclaredRuntime,
    ServingRuntime,
    SupportedFormat,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a model says of the runtime it needs. runtime: by name; None: chosen. version, protocol:
    None: any."""

    format: str
    version: str | None = None
    protocol: str | None = None
    runtime: str | None = None

    @staticmethod
    def by(spec: ModelSpec, form: str) -> Wanted:
        """form: of the artifact, said or recognised."""
        return Wanted(form, spec.format_version, spec.protocol, spec.runtime)

    def __str__(self) -> str:
        version = "" if self.version is None else f" of version {self.version!r}"
        protocol = "" if self.protocol is None else f" for the protocol {self.protocol!r}"
        return f"format {self.format!r}{version}{protocol}"


def own_runtime(formats: Collection[str]) -> DeclaredRuntime:
    """The runtimes of an instance itself, as if they were declared. formats: those installed."""
    return DeclaredRuntime(
        ServingRuntime(
            name=OWN, formats=tuple(SupportedFormat(each) for each in formats),
            protocols=PROTOCOLS,
        ),
        created_at=math.inf,
    )


def choose(
    wanted: Wanted, declared: Sequence[DeclaredRuntime], own: Collection[str]
) -> str | None:
    """The name of the serving runtime that loads it; None: the instance itself does.

    Of those that are enabled, list the format for choosing (`auto_select`) and speak the protocol:
    the one of the highest priority; of several the instance itself, then whoever speaks the lowest
    protocol, was declared last, is first by name. A runtime that is named need not list the format
    for choosing. own: formats that the instance loads itself.

    Raises NoSupportingRuntime; RuntimeNotRecognized and RuntimeDisabled for one that is named.
    """
    if not declared and wanted.runtime in (None, OWN) and wanted.format in own:
        return None  # the usual case, a million times in a row
    everybody = [own_runtime(own), *declared]
    if wanted.runtime is not None:
        _check_named(wanted.runtime, wanted, everybody)
        return None if wanted.runtime == OWN else wanted.runtime
    able = [each for each in everybody if _obstacle(each.serving, wanted) is None]
    if not able:
        raise _nobody(wanted, everybody)
    chosen = min(able, key=lambda each: _rank(each, wanted)).serving.name
    return None if chosen == OWN else chosen


def check_named(name: str, declared: Sequence[DeclaredRuntime]) -> None:
    """Raise RuntimeNotRecognized, or RuntimeDisabled, unless models may name this runtime."""
    if name != OWN:
        find_named(name, declared)


def find_named(name: str, declared: Sequence[DeclaredRuntime]) -> ServingRuntime:
    """Raises as `check_named`."""
    found = next((each.serving for each in declared if each.serving.name == name), None)
    if found is None:
        known = ", ".join(sorted(each.serving.name for each in declared))
        raise RuntimeNotRecognized(
            f"there is no serving runtime {name!r}; declared are "
            f"{f'{known} and {OWN}' if known else f'none but {OWN}'}; declare it with "
            "'shoal runtimes apply', or name another one in 'runtime'"
        )
    if found.disabled:
        raise RuntimeDisabled(
            f"the serving runtime {name!r} is disabled and loads nothing; 'shoal runtimes enable "
            f"{name}' lets it, or name another one in 'runtime'"
        )
    return found


def takes_format(form: str, declared: Sequence[DeclaredRuntime]) -> bool:
    """Does any serving runtime list the format, in whatever version?"""
    return any(each.name == form for one in declared for each in one.serving.formats)


def described(serving: ServingRuntime) -> str:
    """`onnx:1, tensorrt`: its formats, for messages."""
    return ", ".join(map(str, serving.formats)) or "no format"


# --- whether one can ----------------------------------------------------------------------------


def _matching(serving: ServingRuntime, wanted: Wanted) -> list[SupportedFormat]:
    return [
        each for each in serving.formats
        if each.name == wanted.format
        and (wanted.version is None or each.version in (None, wanted.version))
    ]


def _speaks(serving: ServingRuntime, wanted: Wanted) -> bool:
    return wanted.protocol is None or wanted.protocol in serving.protocols


def _obstacle(serving: ServingRuntime, wanted: Wanted) -> str | None:
    """Why it is not chosen, in words behind its name; None: it may be. Empty: it has nothing to do
    with the format."""
    named = [each for each in serving.formats if each.name == wanted.format]
    if not named:
        return ""
    matching = _matching(serving, wanted)
    if not matching:
        versions = ", ".join(str(each.version) for each in named)
        return f"loads {wanted.format}, but of version {versions}"
    if serving.disabled:
        return "loads it, but is disabled"
    if not any(each.auto_select for each in matching):
        return "loads it, but only where it is named (auto_select is off)"
    if not _speaks(serving, wanted):
        return f"loads it, but does not speak {wanted.protocol} ({', '.join(serving.protocols)})"
    return None


def _rank(each: DeclaredRuntime, wanted: Wanted) -> tuple[int, bool, int, float, str]:
    """Lower is better."""
    serving = each.serving
    priority = max(one.priority for one in _matching(serving, wanted) if one.auto_select)
    protocol = min(PROTOCOLS.index(one) for one in serving.protocols)
    return -priority, serving.name != OWN, protocol, -each.created_at, serving.name


def _check_named(
    name: str, wanted: Wanted, everybody: Sequence[DeclaredRuntime]
) -> None:
    own, *declared = everybody
    serving = own.serving if name == OWN else find_named(name, declared)
    if not _matching(serving, wanted):
        raise NoSupportingRuntime(
            f"the runtime {name!r}, which is named, does not load the {wanted}; it loads "
            f"{described(serving)}; name another one, or leave 'runtime' out to have it chosen"
        )
    if not _speaks(serving, wanted):
        raise NoSupportingRuntime(
            f"the runtime {name!r}, which is named, does not speak {wanted.protocol}; it speaks "
            f"{', '.join(serving.protocols)}; name another one, or leave 'protocol' out"
        )


def _nobody(wanted: Wanted, everybody: Sequence[DeclaredRuntime]) -> NoSupportingRuntime:
    misses = [
        f"{each.serving.name} {obstacle}" for each in everybody
        if (obstacle := _obstacle(each.serving, wanted))
    ]
    if misses:
        why = (f"{'; '.join(misses)}; mend that, name a runtime in 'runtime', or say another "
               "'format_version' or 'protocol'")
    else:
        known = "; ".join(f"{each.serving.name} loads {described(each.serving)}"
                          for each in everybody)
        why = f"{known}; declare a server for it with 'shoal runtimes apply', or correct 'format'"
    return NoSupportingRuntime(f"no runtime loads the {wanted}: {why}")
