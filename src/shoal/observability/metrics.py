"""Counts what happens on the hot path in plain numbers, and shows them to Prometheus when asked.

Updating costs a few hundred nanoseconds and takes no lock: one thread, the event loop's, writes;
any thread may read. What the metrics are called and mean is the table in `metric_names`. Must not
know what a model, a cache or a request is beyond their names and numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from shoal.observability import metric_text
from shoal.observability.metric_names import BY_NAME, GAUGES

BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)
"""Upper ends in seconds, inclusive: from a warm tiny model to the default deadline."""

JOINED_BUCKETS: Final = (2, 4, 8, 16, 32, 64, 128)
"""Upper ends in requests, inclusive."""

OTHER: Final = "_other"
"""The `model` of models beyond `max_models`."""

NONE: Final = "_none"
"""The `model` of requests that reached no model: unknown names, unknown paths. Were a name from
outside a label, anybody could fill the memory with series."""

FORWARDED: Final = (
    "answered", "miss", "refused", "failed", "lost", "unreachable", "late", "cancelled",
)
RECEIVED: Final = ("answered", "miss", "refused")
"""How requests between instances end."""

_BOUNDS: Final = (*(str(bound) for bound in BUCKETS), "+Inf")
_JOINED_BOUNDS: Final = (*(str(bound) for bound in JOINED_BUCKETS), "+Inf")


class Histogram:
    """Durations in seconds. `counts`: by bucket, not cumulative; the last one is beyond all."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def with_more_at_once(self, count: int) -> Histogram:
        """A copy, with `count` more durations of 0."""
        copy = Histogram()
        copy.counts = self.counts.copy()
        copy.counts[0] += count
        copy.sum = self.sum
        return copy


class Stages:
    """Where the time of all models' requests went. at_once: requests that waited for nothing, which
    count in the first bucket of `queue` and `load` when these are shown."""

    __slots__ = ("at_once", "compute", "load", "queue")

    def __init__(self) -> None:
        self.at_once = 0
        self.queue = Histogram()
        self.load = Histogram()
        self.compute = Histogram()

    def shown(self) -> dict[str, Histogram]:
        return {
            "queue": self.queue.with_more_at_once(self.at_once),
            "load": self.load.with_more_at_once(self.at_once),
            "compute": self.compute,
        }


class ModelMetrics:
    """The counters of one model, or of all that share them. The hot path keeps the object."""

    __slots__ = ("_stages", "duration", "requests")

    def __init__(self, stages: Stages) -> None:
        self.requests: dict[tuple[str, str], int] = {}
        self.duration = Histogram()
        self._stages = stages

    def request(self, protocol: str, code: str, seconds: float) -> None:
        """An answer was written. protocol: `v1`, `v2`, `grpc`. code: the status as the client sees
        it. seconds: from the request's first byte to the answer's last."""
        key = (protocol, code)
        requests = self.requests
        requests[key] = requests.get(key, 0) + 1
        self.duration.observe(seconds)

    def at_once(self, protocol: str, seconds: float, compute_s: float) -> None:
        """As `request` and `stages` of a right answer that waited for nothing, and cheaper."""
        key = (protocol, "200")
        requests = self.requests
        requests[key] = requests.get(key, 0) + 1
        duration, stages = self.duration, self._stages
        duration.counts[bisect_left(BUCKETS, seconds)] += 1
        duration.sum += seconds
        stages.at_once += 1
        compute = stages.compute
        compute.counts[bisect_left(BUCKETS, compute_s)] += 1
        compute.sum += compute_s

    def stages(self, queue_s: float, load_s: float, compute_s: float) -> None:
        """Where one request's time went: waiting for its turn, for a load, in the model. The
        stages of all models are counted together."""
        self._stages.queue.observe(queue_s)
        self._stages.load.observe(load_s)
        self._stages.compute.observe(compute_s)


class Metrics:
    """Everything one instance counts.

    restarts: of this worker, by reason, since its supervisor started.
    forwarded, received: requests sent to other instances, and by them, by how they ended;
    forward_retries: those that another instance did not answer and that were looked for anew.
    per_model: whether series carry the model's name. max_models: how many models get series of
        their own; the others share `model="_other"`.
    gauges: asked at every scrape for what is true now, by the keys of `GAUGES`; a key left out has
        no series (a cache age before the first eviction). accelerators: the same for bytes by
        device and kind.
    """

    gauges: Callable[[], Mapping[str, float]]
    accelerators: Callable[[], Mapping[tuple[str, str], int]]

    def __init__(self, per_model: bool, max_models: int) -> None:
        self.gauges = self.accelerators = dict
        self.loads = 0
        self.loaded_bytes = 0
        self.load_failures: dict[str, int] = {}
        self.evictions: dict[str, int] = {}
        self.unloads: dict[str, int] = {}
        self.load_duration = Histogram()
        self.restarts: Mapping[str, int] = {}
        self.forwarded = dict.fromkeys(FORWARDED, 0)
        self.received = dict.fromkeys(RECEIVED, 0)
        self.forward_retries = 0
        self._joined_counts = [0] * len(_JOINED_BOUNDS)
        self._joined_requests = 0
        self._per_model = per_model
        self._max_models = max_models
        self._stages = Stages()
        self._models: dict[str, ModelMetrics] = {}
        self._other = ModelMetrics(self._stages)
        self._none = ModelMetrics(self._stages)
        self._registry = CollectorRegistry()
        self._registry.register(_Snapshot(self))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def model(self, name: str) -> ModelMetrics:
        """For a registered model only: the same object every time, until `forget`."""
        found = self._models.get(name)
        if found is not None:
            return found
        full = not self._per_model or len(self._models) >= self._max_models
        if full or name in (OTHER, NONE):  # models may be called so; their series exist already
            return self._other
        return self._models.setdefault(name, ModelMetrics(self._stages))

    @property
    def no_model(self) -> ModelMetrics:
        """For requests that reached no model."""
        return self._none

    def forget(self, name: str) -> None:
        """Drop the series of a model that is no longer registered; another may have their place."""
        self._models.pop(name, None)

    def loaded(self, seconds: float, size_bytes: int) -> None:
        self.loads += 1
        self.loaded_bytes += size_bytes
        self.load_duration.observe(seconds)

    def joined(self, requests: int) -> None:
        """So many requests, two or more, ran as one call of their model."""
        self._joined_counts[bisect_left(JOINED_BUCKETS, requests)] += 1
        self._joined_requests += requests

    def load_failed(self, code: str) -> None:
        """code: of the error, as in `domain.errors`."""
        self.load_failures[code] = self.load_failures.get(code, 0) + 1

    def evicted(self, reason: str) -> None:
        """A copy was dropped for room. An eviction is not counted among the unloads."""
        self.evictions[reason] = self.evictions.get(reason, 0) + 1

    def unloaded(self, reason: str) -> None:
        self.unloads[reason] = self.unloads.get(reason, 0) + 1

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """(body, content type) for a scrape: OpenMetrics where the `Accept` header asks for it,
        else Prometheus' text format."""
        encode, content_type = choose_encoder(accept)
        shared = OTHER if self._per_model else ""  # no name: to Prometheus the same as no label
        # Copied in one step each, since the loop may go on counting meanwhile.
        series = [*self._models.copy().items(), (shared, self._other), (NONE, self._none)]
        families = [
            metric_text.counter(
                BY_NAME["shoal_requests_total"],
                [(model, counters.requests.copy()) for model, counters in series],
                openmetrics=content_type.startswith("application/openmetrics-text"),
            ),
            metric_text.histogram(
                BY_NAME["shoal_request_seconds"],
                _BOUNDS,
                [
                    (model, counters.duration.counts.copy(), counters.duration.sum)
                    for model, counters in series
                ],
            ),
        ]
        return metric_text.insert(encode(self._registry), families), content_type

    def collect(self) -> Iterator[Metric]:
        """What is counted for the whole instance, as prometheus_client's families."""
        yield _counter("shoal_forwarded_requests_total", self.forwarded)
        yield _counter("shoal_forward_retries_total", {(): self.forward_retries})
        yield _counter("shoal_received_requests_total", self.received)
        yield _counter("shoal_loads_total", {(): self.loads})
        yield _counter("shoal_loaded_bytes_total", {(): self.loaded_bytes})
        yield _counter("shoal_load_failures_total", self.load_failures)
        yield _counter("shoal_evictions_total", self.evictions)
        yield _counter("shoal_unloads_total", self.unloads)
        yield _counter("shoal_worker_restarts_total", self.restarts)
        yield _histogram("shoal_load_seconds", {(): self.load_duration})
        yield _histogram("shoal_request_stage_seconds", self._stages.shown())
        joined = BY_NAME["shoal_joined_requests"]
        yield HistogramMetricFamily(
            joined.name, joined.meaning, sum_value=self._joined_requests,
            buckets=list(zip(_JOINED_BOUNDS, accumulate(self._joined_counts.copy()), strict=True)),
        )
        yield from _gauges(self.gauges())
        described = BY_NAME["shoal_accelerator_bytes"]
        there = GaugeMetricFamily(described.name, described.meaning, labels=described.labels)
        for labels, value in self.accelerators().items():
            there.add_metric(labels, value)
        yield there


class _Snapshot(Collector):
    """What prometheus_client asks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask the gauges before anybody has set them."""
        return []

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()


def _counter(name: str, counts: Mapping[str, int] | Mapping[tuple[()], int]) -> Metric:
    """counts: by the value of the only label, or by () without labels."""
    described = BY_NAME[name]
    family = CounterMetricFamily(
        name.removesuffix("_total"), described.meaning, labels=described.labels
    )
    for label, count in sorted(dict(counts).items()):
        family.add_metric([label] if isinstance(label, str) else [], count)
    return family


def _histogram(name: str, by: Mapping[str, Histogram] | Mapping[tuple[()], Histogram]) -> Metric:
    described = BY_NAME[name]
    family = HistogramMetricFamily(name, described.meaning, labels=described.labels)
    for label, histogram in by.items():
        buckets = list(zip(_BOUNDS, accumulate(histogram.counts.copy()), strict=True))
        family.add_metric([label] if isinstance(label, str) else [], buckets, histogram.sum)
    return family


def _gauges(now: Mapping[str, float]) -> Iterator[Metric]:
    unknown = now.keys() - GAUGES.keys()
    assert not unknown, f"gauges that metric_names does not describe: {sorted(unknown)}"
    families: dict[str, GaugeMetricFamily] = {}
    for key, (name, labels) in GAUGES.items():
        if name not in families:
            described = BY_NAME[name]
            families[name] = GaugeMetricFamily(name, described.meaning, labels=described.labels)
        if key in now:
            families[name].add_metric(labels, now[key])
    yield from families.values()
