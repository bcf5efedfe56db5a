"""On what a model runs: the accelerator that was chosen for it, or the processor, and why not.

Must not know how devices are chosen, nor any framework.
"""

from __future__ import annotations

from dataclasses import replace

from shoal.domain.accelerators import kind_of
from shoal.domain.errors import InvalidSpecification, LoadFailed, RuntimeMissing
from shoal.domain.model import Revision
from shoal.ports import Accelerating, Artifact, LoadedModel, Runtime


def check_accelerator(runtime: Runtime, revision: Revision) -> None:
    """Raise InvalidSpecification for a model that must run where its format cannot."""
    kind = revision.accelerator
    if kind is None or revision.accelerator_optional or kind in kinds_of(runtime):
        return
    known = ", ".join(kinds_of(runtime))
    where = f"the processor or {known}" if known else "the processor alone"
    raise InvalidSpecification(
        f"model {revision.model!r} must run on an accelerator (placement.accelerator: {kind}), and "
        f"the format {revision.format} runs on {where}; take that away, or write "
        "preferred_accelerator"
    )


def kinds_of(runtime: Runtime) -> tuple[str, ...]:
    """Of accelerators that it can run models on."""
    return runtime.accelerators if isinstance(runtime, Accelerating) else ()


def device_for(revision: Revision, device: str | None, *, apart: bool) -> str | None:
    """Where it runs, of what was chosen; None: on the processor. apart: in a process of its own.

    Raises InvalidSpecification, LoadFailed where it must run on an accelerator and cannot.
    """
    kind = revision.accelerator
    if kind is None or revision.accelerator_optional:
        return None if apart else device
    if apart:
        raise InvalidSpecification(
            f"model {revision.model!r} must run on an accelerator (placement.accelerator: {kind}) "
            "and in a process of its own, whose accelerator memory nobody counts; take one of both "
            "away"
        )
    if device is None or kind_of(device) != kind:
        raise LoadFailed(
            f"model {revision.model!r} must run on an accelerator (placement.accelerator: {kind}), "
            "and this instance has none of that kind; look at the setting accelerator.devices"
        )
    return device


def load_on(
    runtime: Runtime, artifact: Artifact, revision: Revision
) -> tuple[LoadedModel, tuple[str, ...]]:
    """The model on its device, or on the processor where it may and has to; then a note says why.
    Raises as `Runtime.load`."""
    if artifact.device is None or not revision.accelerator_optional:
        return runtime.load(artifact), ()
    try:
        return runtime.load(artifact), ()
    except RuntimeMissing as error:
        model = runtime.load(replace(artifact, device=None))
        return model, (f"it runs on the processor: {error.message}",)


def form_of(revision: Revision, device: str | None) -> str:
    """What loads have in common of which sizes are measured alike."""
    return revision.format if device is None else f"{revision.format} on {kind_of(device)}"
