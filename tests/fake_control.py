"""An instance without models: `Control` over a dictionary, for tests of what stands above it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from shoal.domain.errors import (
    ArtifactMissing,
    Conflict,
    LoadFailed,
    ModelNotFound,
    NotFound,
    ShoalError,
    VersionNotFound,
)
from shoal.domain.model import ModelSpec, check_name, check_spec
from shoal.domain.serving_checks import check_serving_runtime
from shoal.domain.serving_runtime import OWN, ServingRuntime, SupportedFormat
from shoal.domain.views import (
    BusyModel,
    CredentialsDeleted,
    CredentialsList,
    CredentialsView,
    Drained,
    EventPage,
    EventView,
    FailureView,
    InstanceView,
    Latency,
    ModelPage,
    ModelView,
    Outcome,
    Registered,
    RuntimeDeleted,
    RuntimeList,
    RuntimeView,
    SettingView,
    State,
    Status,
    Story,
    Totals,
    VersionView,
)
from shoal.node.control import ModelFilter
from shoal.node.questions import Counted, Leave
from shoal.storage.places.fields import type_of

GIB = 1024**3


class FakeControl:
    """Models have one version, 1. A `uri` says what happens: with `missing` in it the artifact is
    not there, with `broken` it cannot be loaded, with `slow` loading waits for `release`.

    calls: what was asked, in order. failures: raised by the method of that name.
    from_folder: names that a watched folder declares. loading: set when a slow load has begun.
    """

    def __init__(self, *specs: ModelSpec) -> None:
        self.specs: dict[str, ModelSpec] = {}
        self.kept: dict[str, CredentialsView] = {}
        self.servers: dict[str, ServingRuntime] = {}
        self.states: dict[str, State] = {}
        self.happened: list[EventView] = []
        self.calls: list[tuple[object, ...]] = []
        self.failures: dict[str, Exception] = {}
        self.from_folder: set[str] = set()
        self.readiness: list[str] = []
        self.loading, self.release = asyncio.Event(), asyncio.Event()
        for spec in specs:
            self.declare(spec)

    async def list_models(self, wanted: ModelFilter) -> ModelPage:
        self._called("list_models", wanted)
        matching = [name for name in sorted(self.specs) if self._matches(name, wanted)]
        page = [name for name in matching if name > (wanted.after or "")]
        more = len(page) > wanted.limit
        models = [self._view(name) for name in page[: wanted.limit]]
        return ModelPage(models, len(matching), models[-1].name if more else None)

    async def models(self, names: Sequence[str]) -> list[ModelView]:
        self._called("models", names)
        return [self._view(name) for name in names if name in self.specs]

    async def loaded_models(self) -> list[str]:
        self._called("loaded_models")
        return [name for name, state in sorted(self.states.items()) if state is State.READY]

    async def model(self, name: str) -> ModelView:
        self._called("model", name)
        return self._view(name)

    async def explain(self, name: str) -> Story:
        self._called("explain", name)
        failure = FailureView("r1", "LOAD_FAILED", "cannot be read", 2, 1.0, 2.0, None)
        happened = [event for event in self.happened if event.model == name]
        return Story(self._view(name), [f"{name} is cold"], [failure], happened)

    async def register(
        self, spec: ModelSpec, *, create: bool = False, read: bool = True
    ) -> ModelView:
        self._called("register", spec, create)
        check_spec(spec)
        if spec.name in self.from_folder:
            raise Conflict(f"model {spec.name!r} is declared by a watched folder; change it there")
        if create and spec.name in self.specs:
            raise Conflict(f"model {spec.name!r} exists; leave 'create' out to replace it")
        if "missing" in spec.uri:
            raise ArtifactMissing(f"model {spec.name!r}: there is nothing at {spec.uri}")
        self.declare(spec)
        return self._view(spec.name)

    async def register_all(
        self, specs: Sequence[ModelSpec], *, read: bool = True
    ) -> list[Registered]:
        self._called("register_all", list(specs), read)
        results: dict[str, Registered] = {}
        told = []
        for spec in specs:
            try:
                if spec.name in results:
                    raise Conflict(f"model {spec.name!r} is in this batch twice")
                unchanged = self.specs.get(spec.name) == spec
                await self.register(spec, read=read)
                results[spec.name] = Registered(spec.name, True, unchanged)
                told.append(results[spec.name])
            except ShoalError as error:
                told.append(Registered(
                    spec.name, False, error=error.message, code=error.code,
                    retryable=error.retryable))
        return told

    async def unregister_all(self, names: Sequence[str]) -> list[Registered]:
        self._called("unregister_all", list(names))
        known = [name in self.specs for name in names]
        for name in names:
            self.specs.pop(name, None)
        return [
            Registered(name, True, unchanged=not was)
            for name, was in zip(names, known, strict=True)
        ]

    async def unregister(self, name: str) -> None:
        self._called("unregister", name)
        self._view(name)
        del self.specs[name], self.states[name]

    async def load(self, name: str, version: int | None = None, *, wait: bool = True) -> Outcome:
        self._called("load", name, version, wait)
        view = self._version(name, version)
        if "slow" in view.uri and wait:
            self.loading.set()
            await self.release.wait()
        if "broken" in view.uri:
            raise LoadFailed(f"model {name!r} cannot be loaded: its file is cut off", 2.5)
        self.states[name] = State.READY
        return Outcome(name, State.READY, version, 0.25)

    async def unload(self, name: str, version: int | None = None, *, wait: bool = True) -> Outcome:
        self._called("unload", name, version, wait)
        self._version(name, version)
        self.states[name] = State.UNLOADED
        return Outcome(name, State.UNLOADED, version, 0.0)

    async def events(
        self, after: int = 0, limit: int = 100, model: str | None = None,
        instance: str | None = None,
    ) -> EventPage:
        self._called("events", after, limit, model, instance)
        found = [e for e in self.happened if e.seq > after and model in (None, e.model)][:limit]
        return EventPage(found, found[-1].seq if found else after)

    async def instances(self) -> list[InstanceView]:
        self._called("instances")
        return self._instances()

    async def drain(self, instance: str, wish: Leave) -> Drained:
        self._called("drain", instance, wish)
        if instance != "shoal-1":
            raise NotFound(f"there is no instance {instance!r}; known are shoal-1")
        return Drained(instance, "ready" if wish.undo else "draining", 0, 0.5, wish.stop)

    async def statistics(self, model: str | None) -> list[Counted]:
        self._called("statistics", model)
        return []

    def _instances(self) -> list[InstanceView]:
        return [
            InstanceView(
                id="shoal-1", host="box", pid=7, version="0.1.0", state="ready", started_at=1.0,
                http_address="127.0.0.1:8080", management_address="127.0.0.1:8082",
                budget_bytes=4 * GIB, used_bytes=3 * GIB // 2, reserved_bytes=0,
                process_bytes=2 * GIB, copies=len(self.specs), loading=0, queued=0,
                waiting_requests=0, pressure=0.5, cache_age_s=None, thrashing=False,
            )
        ]  # fmt: skip

    async def status(self) -> Status:
        self._called("status")
        by_state = {state.value: 0 for state in State}
        for state in self.states.values():
            by_state[state] += 1
        return Status(
            ready=not self.readiness,
            models=len(self.specs),
            by_state=by_state,
            totals=Totals(requests=3),
            latency=Latency(p50=0.001),
            cold_latency=Latency(),
            instances=self._instances(),
            busiest=[BusyModel(name, State.COLD, 0.1, None, None) for name in self.specs],
            problems=list(self.readiness),
        )

    async def list_credentials(self) -> CredentialsList:
        self._called("list_credentials")
        return CredentialsList([self.kept[name] for name in sorted(self.kept)])

    async def credentials(self, name: str) -> CredentialsView:
        self._called("credentials", name)
        if name not in self.kept:
            raise NotFound(f"credentials {name!r} are not known")
        return self.kept[name]

    async def set_credentials(self, name: str, entry: Mapping[str, object]) -> CredentialsView:
        self._called("set_credentials", name, dict(entry))
        check_name(name, "credentials")
        kind = type_of(entry, f"credentials {name!r}")
        fields = [field for field in entry if field != "type"]
        self.kept[name] = CredentialsView(name, kind, fields, "registry", False)
        return self.kept[name]

    async def delete_credentials(self, name: str) -> CredentialsDeleted:
        self._called("delete_credentials", name)
        if name not in self.kept:
            raise NotFound(f"credentials {name!r} are not in the registry")
        del self.kept[name]
        users = [each.name for each in self.specs.values() if each.credentials == name]
        return CredentialsDeleted(name, len(users), users[:10])

    async def list_runtimes(self) -> RuntimeList:
        self._called("list_runtimes")
        own = RuntimeView(OWN, [SupportedFormat("onnx")], ["v1", "v2", "grpc-v2"], own=True)
        return RuntimeList([own, *[self._server(name) for name in sorted(self.servers)]])

    async def runtime(self, name: str) -> RuntimeView:
        self._called("runtime", name)
        return self._server(name)

    async def declare_runtime(self, serving: ServingRuntime) -> RuntimeView:
        self._called("declare_runtime", serving)
        check_serving_runtime(serving)
        self.servers[serving.name] = serving
        return self._server(serving.name)

    async def enable_runtime(self, name: str, *, enabled: bool) -> RuntimeView:
        self._called("enable_runtime", name, enabled)
        self._server(name)
        self.servers[name] = msgspec.structs.replace(self.servers[name], disabled=not enabled)
        return self._server(name)

    async def delete_runtime(self, name: str, *, force: bool = False) -> RuntimeDeleted:
        self._called("delete_runtime", name, force)
        self._server(name)
        users = [each.name for each in self.specs.values() if each.runtime == name]
        if users and not force:
            raise Conflict(f"the serving runtime {name!r} is used by {', '.join(users)}")
        del self.servers[name]
        return RuntimeDeleted(name, len(users), users[:10])

    def _server(self, name: str) -> RuntimeView:
        if name not in self.servers:
            raise NotFound(f"there is no serving runtime {name!r}")
        serving = self.servers[name]
        return RuntimeView(name, list(serving.formats), list(serving.protocols), serving.disabled,
                           created_at=1.0, declaration=serving)

    def settings_in_force(self) -> list[SettingView]:
        self._called("settings_in_force")
        doc = "TCP port; 0 takes any free one."
        return [
            SettingView("http.port", 0, 8080, "flag", "--http-port", "SHOAL_HTTP_PORT", doc),
            SettingView("trust.locations", ["/srv"], [], "file", "--trust-locations", "X", doc),
        ]

    def problems_of_readiness(self) -> list[str]:
        self._called("problems_of_readiness")
        return self.readiness

    def _called(self, method: str, *arguments: object) -> None:
        self.calls.append((method, *arguments))
        if method in self.failures:
            raise self.failures[method]

    def declare(self, spec: ModelSpec) -> None:
        self.specs[spec.name], self.states[spec.name] = spec, State.COLD
        seq = len(self.happened) + 1
        self.happened.append(
            EventView(seq, float(seq), "registered", f"{spec.name} was registered", spec.name)
        )

    def _matches(self, name: str, wanted: ModelFilter) -> bool:
        spec = self.specs[name]
        key, _, value = (wanted.label or "").partition("=")
        return (
            wanted.state in (None, self.states[name])
            and (wanted.contains or "") in name
            and wanted.format in (None, spec.format)
            and (not key or (key in spec.labels and value in ("", spec.labels[key])))
        )

    def _version(self, name: str, version: int | None) -> ModelView:
        view = self._view(name)
        if version not in (None, 1):
            raise VersionNotFound(f"model {name!r} has no version {version}; it has 1")
        return view

    def _view(self, name: str) -> ModelView:
        if name not in self.specs:
            raise ModelNotFound(f"there is no model {name!r}; register it first")
        spec = self.specs[name]
        state = self.states[name]
        version = VersionView(1, f"{name}@1-0", state, spec.format or "onnx", spec.uri, 10)
        return ModelView(
            name, state, spec.uri, "api", 1.0, [version], 1, f"{name}@1-0",
            pin=spec.pin, priority=spec.priority, labels=spec.labels,
            inputs=list(spec.inputs), outputs=list(spec.outputs),
        )  # fmt: skip
