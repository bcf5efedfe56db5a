"""Reads KServe's ServingRuntime and ClusterServingRuntime as declarations of serving runtimes here.

KServe starts such a server in a pod of its own; Shoal starts it as a process beside itself, or
finds it there already. What has no counterpart is refused, or, where the server answers the same
without it, left out with a note. Source: https://kserve.github.io/website/docs/reference/crd-api,
"ServingRuntimeSpec"; kserve/modelmesh-serving, "config/runtimes".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from shoal.domain.errors import InvalidSpecification
from shoal.domain.serving_checks import check_serving_runtime
from shoal.domain.serving_runtime import PROTOCOLS, ServingRuntime, SupportedFormat

API_GROUP: Final = "serving.kserve.io/"
KINDS: Final = ("ServingRuntime", "ClusterServingRuntime")

_COMMANDS: Final[dict[Literal["triton", "mlserver"], tuple[str, ...]]] = {
    "triton": (
        "tritonserver", "--model-repository={models}", "--model-control-mode=explicit",
        "--grpc-port={grpc_port}", "--http-port={http_port}", "--metrics-port={metrics_port}",
        "--strict-readiness=false", "--allow-sagemaker=false",
    ),
    "mlserver": ("mlserver", "start", "{models}"),
}
# Of MLServer's own: ports, folders and names, which Shoal chooses.
_CHOSEN_HERE: Final = re.compile(
    r"MLSERVER_(HTTP_PORT|GRPC_PORT|METRICS_PORT|HOST|MODELS_DIR|MODEL_NAME|MODEL_URI"
    r"|LOAD_MODELS_AT_STARTUP)|MODELS_DIR")
_TEMPLATE: Final = "{{"
_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_UNITS: Final = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50,
}


class _Format(msgspec.Struct):
    name: str
    version: str | None = None
    autoSelect: bool | None = None  # noqa: N815 - KServe's names, here and below
    priority: int | None = None


class _Adapter(msgspec.Struct):
    serverType: str = ""  # noqa: N815
    runtimeManagementPort: int | None = None  # noqa: N815
    memBufferBytes: int = 0  # noqa: N815
    modelLoadingTimeoutMillis: int | None = None  # noqa: N815


class _Variable(msgspec.Struct):
    name: str
    value: str | None = None


class _Container(msgspec.Struct):
    name: str = ""
    image: str = ""
    command: list[str] = []
    args: list[str] = []
    env: list[_Variable] = []
    resources: dict[str, dict[str, str | int | float]] = {}


class _Spec(msgspec.Struct):
    supportedModelFormats: list[_Format] = []  # noqa: N815
    protocolVersions: list[str] | None = None  # noqa: N815
    disabled: bool | None = None
    multiModel: bool | None = None  # noqa: N815
    grpcEndpoint: str | None = None  # noqa: N815
    grpcDataEndpoint: str | None = None  # noqa: N815
    builtInAdapter: _Adapter | None = None  # noqa: N815
    containers: list[_Container] = []


class _Meta(msgspec.Struct):
    name: str
    annotations: dict[str, str] | None = None


class _Manifest(msgspec.Struct):
    metadata: _Meta
    spec: _Spec


@dataclass(frozen=True, slots=True)
class ReadRuntime:
    """A declaration, and what people should know of how it was read, in sentences."""

    serving: ServingRuntime
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Reading:
    """where: for messages."""

    where: str
    manifest: _Manifest
    notes: list[str] = field(default_factory=list)

    @property
    def spec(self) -> _Spec:
        return self.manifest.spec

    def wrong(self, what: str) -> InvalidSpecification:
        return InvalidSpecification(f"{self.where}: {what}")


def is_kserve(content: Mapping[str, object]) -> bool:
    """Is it a manifest of Kubernetes, rather than fields of Shoal's own?"""
    return "apiVersion" in content or "kind" in content


def read_kserve(content: Mapping[str, object], source: str) -> ReadRuntime:
    """What a manifest declares. source: for messages.

    Raises InvalidSpecification for another kind of object, and for what has no counterpart here.
    """
    kind, version = content.get("kind"), str(content.get("apiVersion"))
    if kind not in KINDS or not version.startswith(API_GROUP):
        raise InvalidSpecification(
            f"{source}: it is a {kind!r} of {version}, and no {' or '.join(KINDS)} of "
            f"{API_GROUP}v1alpha1; only these are read")
    try:
        manifest = msgspec.convert(content, _Manifest)
    except msgspec.ValidationError as error:
        raise InvalidSpecification(
            f"{source}: it is no {kind} as KServe has it: {error}; versions and other texts that "
            "look like numbers need quotes") from None
    reading = _Reading(f"{source}: {kind} {manifest.metadata.name!r}", manifest)
    serving = _serving(reading)
    check_serving_runtime(serving)
    return ReadRuntime(serving, tuple(reading.notes))


def _serving(reading: _Reading) -> ServingRuntime:
    spec, meta = reading.spec, reading.manifest.metadata
    draft = ServingRuntime(
        name=meta.name,
        formats=tuple(
            SupportedFormat(
                each.name, each.version, bool(each.autoSelect),
                1 if each.priority is None else each.priority)
            for each in spec.supportedModelFormats
        ),
        protocols=_protocols(reading),
        max_loading=_max_loading(reading),
        disabled=bool(spec.disabled),
    )
    if len(spec.containers) > 1:
        reading.notes.append(
            f"of {len(spec.containers)} containers only the first, "
            f"{spec.containers[0].name!r}, is read")
    container = spec.containers[0] if spec.containers else _Container()
    _check_templates(reading, container)
    if spec.builtInAdapter is not None:
        return _adapted(reading, draft, spec.builtInAdapter, container)
    if spec.grpcEndpoint is None:
        raise reading.wrong(
            "it has neither 'builtInAdapter' nor 'grpcEndpoint', so it is started for one model "
            "each; name 'serverType: triton' or 'mlserver' in a builtInAdapter where it is one of "
            "these, or declare a server that loads and unloads models")
    return _by_model_runtime(reading, draft, container)


def _protocols(reading: _Reading) -> tuple[str, ...]:
    said = reading.spec.protocolVersions
    if not said:  # KServe takes it for any
        return PROTOCOLS
    known = tuple(each for each in PROTOCOLS if each in said)
    other = ", ".join(each for each in said if each not in PROTOCOLS)
    if other:
        if not known:
            raise reading.wrong(
                f"it speaks {other} alone, and Shoal asks servers by gRPC V2; declare a server "
                f"that speaks one of {', '.join(PROTOCOLS)}")
        reading.notes.append(f"the protocol {other} is left out: no requests come by it")
    return known


def _max_loading(reading: _Reading) -> int | None:
    text = (reading.manifest.metadata.annotations or {}).get("maxLoadingConcurrency")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise reading.wrong(f"the annotation maxLoadingConcurrency is {text!r}, and no number")
    return int(text)


def _check_templates(reading: _Reading, container: _Container) -> None:
    """KServe fills in what belongs to one InferenceService."""
    said = [*container.command, *container.args, *(each.value or "" for each in container.env)]
    for text in said:
        if _TEMPLATE in text:
            raise reading.wrong(
                f"{text!r} has a template that KServe fills in for one InferenceService; a server "
                "here is for many models: write the value itself, or take the word out")


# --- Triton and MLServer ------------------------------------------------------------------------


def _adapted(
    reading: _Reading, draft: ServingRuntime, adapter: _Adapter, container: _Container
) -> ServingRuntime:
    """Started by a command of ours: that of the container is made for its image's folders."""
    match adapter.serverType:
        case "triton" | "mlserver" as kind:
            command = _COMMANDS[kind]
        case other:
            raise reading.wrong(
                f"serverType {other!r} has no counterpart here; known are triton and mlserver, and "
                "any server with ModelMesh's ModelRuntime service ('grpcEndpoint' without "
                "'builtInAdapter')")
    reading.notes.append(
        f"image, command and args of its container are left out: it is started as "
        f"'{' '.join(command)}', so {command[0]} must be on the PATH of each instance")
    timeout_ms = adapter.modelLoadingTimeoutMillis
    return msgspec.structs.replace(
        draft, interface="v2", serves=kind, command=command,
        environment=_environment(reading, container),
        capacity_bytes=_capacity(reading, container, adapter.memBufferBytes),
        load_timeout_s=None if timeout_ms is None else timeout_ms / 1e3,
    )


def _environment(reading: _Reading, container: _Container) -> dict[str, str]:
    found: dict[str, str] = {}
    dropped = []
    for each in container.env:
        if each.value is None:
            reading.notes.append(
                f"the variable {each.name} comes from elsewhere in the cluster and is left out; "
                "set it in the environment of the instances")
        elif _CHOSEN_HERE.fullmatch(each.name):
            dropped.append(each.name)
        else:
            found[each.name] = each.value
    if dropped:
        reading.notes.append(f"{', '.join(dropped)} are left out: they are chosen here")
    return found


def _capacity(reading: _Reading, container: _Container, buffer_bytes: int) -> int | None:
    """As ModelMesh: the container's memory without the buffer."""
    said = container.resources.get("requests", {}).get("memory") or container.resources.get(
        "limits", {}).get("memory")
    if said is None:
        return None
    match = _QUANTITY.fullmatch(str(said))
    if match is None:
        raise reading.wrong(f"memory {said!r} is no quantity; write one such as 1Gi")
    capacity = round(float(match[1]) * _UNITS[match[2] or ""]) - buffer_bytes
    if capacity <= 0:
        raise reading.wrong(
            f"its memory, {said}, is no more than memBufferBytes, {buffer_bytes}; raise the one or "
            "lower the other")
    return capacity


# --- any other server ---------------------------------------------------------------------------


def _by_model_runtime(
    reading: _Reading, draft: ServingRuntime, container: _Container
) -> ServingRuntime:
    spec = reading.spec
    assert spec.grpcEndpoint is not None
    management = _endpoint(reading, "grpcEndpoint", spec.grpcEndpoint)
    data = management if spec.grpcDataEndpoint is None else _endpoint(
        reading, "grpcDataEndpoint", spec.grpcDataEndpoint)
    draft = msgspec.structs.replace(
        draft, interface="model-runtime", capacity_bytes=_capacity(reading, container, 0))
    words = (*container.command, *container.args)
    if not words:
        reading.notes.append(
            f"its container has no command: it must run beside each instance already, at {data}")
        return msgspec.structs.replace(
            draft, address=data, management_address=None if management == data else management)
    if any(each.startswith("unix:") for each in (data, management)):
        raise reading.wrong(
            "it listens on a Unix socket, and servers that are started here are told TCP ports; "
            "start it yourself, and declare 'address'")
    reading.notes.append("the image of its container is left out: the command is started as it is")
    draft = msgspec.structs.replace(
        draft, command=words, environment=_environment(reading, container))
    if management != data:
        draft = _with_port(reading, draft, management, "{management_port}")
    return _with_port(reading, draft, data, "{grpc_port}")


def _endpoint(reading: _Reading, field_name: str, text: str) -> str:
    kind, _, rest = text.partition(":")
    if kind == "port" and rest.isascii() and rest.isdigit():
        return f"127.0.0.1:{rest}"
    if kind == "unix" and rest:
        return f"unix:{'/' + rest.lstrip('/')}"
    raise reading.wrong(f"{field_name} is {text!r}; KServe's are port:8085 or unix:/path")


def _with_port(
    reading: _Reading, draft: ServingRuntime, address: str, placeholder: str
) -> ServingRuntime:
    """The port of a pod becomes one that is free where the server is started."""
    port = address.rpartition(":")[2]
    number = re.compile(rf"(?<![0-9]){port}(?![0-9])")
    found = msgspec.structs.replace(
        draft, command=tuple(number.sub(placeholder, word) for word in draft.command),
        environment={name: number.sub(placeholder, value)
                     for name, value in draft.environment.items()})
    if found == draft:
        raise reading.wrong(
            f"neither its command nor its env says the port {port}, and Shoal starts servers on "
            "ports that are free; give the program its port as an argument, or start it yourself "
            "and declare 'address'")
    reading.notes.append(
        f"the port {port} in its command and env is one that is free where it is started")
    return found
