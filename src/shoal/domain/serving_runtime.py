"""Model servers outside Shoal's own processes, as people declare them.

After KServe's `ServingRuntime`: which formats it loads, which protocols its clients may speak, and
how it is reached or started. What is done with it is decided elsewhere.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

OWN: Final = "shoal"
"""The name of Shoal's own runtimes, which load in the instance itself, among serving runtimes."""

PROTOCOLS: Final = ("v1", "v2", "grpc-v2")
"""What models can be asked with, in the order in which KServe prefers runtimes that speak them."""


class SupportedFormat(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A format that a server loads. version: of the format, `1` or `1.14`; None: any.
    auto_select: it may be chosen for models that name no runtime. priority: of several that may,
    the one with the highest is chosen."""

    name: str
    version: str | None = None
    auto_select: bool = True
    priority: int = 1

    def __str__(self) -> str:
        """`onnx`, or `onnx:1`."""
        return self.name if self.version is None else f"{self.name}:{self.version}"


class ServingRuntime(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """What the registry stores of a server, under `runtimes/<name>`.

    formats: what it loads.
    protocols: what its models may be asked with: `v1`, `v2`, `grpc-v2`. Shoal speaks gRPC V2 with
        the server itself and translates.
    interface: how models are loaded into it: `model-runtime` is ModelMesh's gRPC service
        `mmesh.ModelRuntime`, `v2` the repository extension of the Open Inference Protocol over
        gRPC.
    serves: what its model repository looks like: `triton` and `mlserver` want folders of their own
        making; None: it is given the artifact's path (`model-runtime`), or has what it serves.
    command: of a server that each instance starts for itself, when the first model needs it. The
        words may have `{grpc_port}`, `{management_port}`, `{http_port}`, `{metrics_port}` (free
        ports of this machine), `{models}` (the folder of its models) and `{name}` in them. With
        `{management_port}` anywhere it is managed there, else at `{grpc_port}`.
    environment: variables it is started with beside those of Shoal that are no secrets. Values may
        have what words of `command` may. Whoever may manage may read them.
    address: of one that runs already, `host:port` or `unix:<path>`: where it answers inference.
    management_address: where it loads and unloads, if that is elsewhere.
    models_dir: the folder that is the model repository of one that runs already, where `serves`
        says how models are put there.
    capacity_bytes: of its memory; None: as it reports, or the instance's own budget.
    max_loading: models that it loads at once; None: as it reports, else 1.
    start_timeout_s: until it must be ready. load_timeout_s: until a model must be loaded; None: as
        it reports, else the instance's own.
    idle_s: a started server of which no model is loaded for so long is ended.
    disabled: nothing is loaded into it any more.
    """

    name: str
    formats: tuple[SupportedFormat, ...]
    protocols: tuple[str, ...] = ("v2", "grpc-v2")
    interface: Literal["model-runtime", "v2"] = "v2"
    serves: Literal["triton", "mlserver"] | None = None
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    address: str | None = None
    management_address: str | None = None
    models_dir: str | None = None
    capacity_bytes: int | None = None
    max_loading: int | None = None
    start_timeout_s: float = 60.0
    load_timeout_s: float | None = None
    idle_s: float = 300.0
    disabled: bool = False


class DeclaredRuntime(msgspec.Struct, frozen=True, omit_defaults=True):
    """created_at: when its name was declared first, in seconds since the epoch."""

    serving: ServingRuntime
    created_at: float = 0.0


def offer_of(runtime: str) -> str:
    """The word by which an instance says that it loads into a serving runtime, among the formats
    that it loads itself."""
    return f"runtime:{runtime}"
