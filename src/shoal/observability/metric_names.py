"""Which metrics there are: name, type, labels, unit and meaning of each, in one table.

The page of metrics and the documentation are both made from it. Knows no values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Described:
    """name: as Prometheus shows it. unit: of the value; empty: a number."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    unit: str
    meaning: str


METRICS: Final = (
    Described(
        "shoal_requests_total", "counter", ("model", "protocol", "code"), "",
        "Inference requests answered. model: _other beyond metrics.max_models, _none when the "
        "request reached no model.",
    ),
    Described(
        "shoal_request_seconds", "histogram", ("model",), "seconds",
        "Time from a request's first byte to its answer's last.",
    ),
    Described(
        "shoal_request_stage_seconds", "histogram", ("stage",), "seconds",
        "Where the time of requests went. stage: queue, load or compute.",
    ),
    Described(
        "shoal_joined_requests", "histogram", (), "",
        "Requests that ran as one call of their model, for every such call.",
    ),
    Described(
        "shoal_forwarded_requests_total", "counter", ("outcome",), "",
        "Requests that this instance sent on to others. outcome: answered; miss, the copy had "
        "left; refused; failed; lost, the connection ended; unreachable, none was sent; late; "
        "cancelled.",
    ),
    Described(
        "shoal_forward_retries_total", "counter", (), "",
        "Requests looked for anew after another instance did not answer.",
    ),
    Described(
        "shoal_received_requests_total", "counter", ("outcome",), "",
        "Requests that other instances sent on to this one. outcome: answered, miss or refused. "
        "shoal_requests_total counts a request where it is answered.",
    ),
    Described("shoal_loads_total", "counter", (), "", "Copies loaded into memory."),
    Described(
        "shoal_loaded_bytes_total", "counter", (), "bytes",
        "Memory of all copies ever loaded; divided by the budget: how often the cache turned over.",
    ),
    Described("shoal_load_seconds", "histogram", (), "seconds", "How long successful loads took."),
    Described(
        "shoal_load_failures_total", "counter", ("code",), "",
        "Loads that failed, by the code of the error.",
    ),
    Described("shoal_evictions_total", "counter", ("reason",), "", "Copies dropped for room."),
    Described(
        "shoal_unloads_total", "counter", ("reason",), "",
        "Copies that left memory for another reason than room.",
    ),
    Described(
        "shoal_cache_bytes", "gauge", ("kind",), "bytes",
        "Memory for models. kind: budget, used, or reserved for loads in progress.",
    ),
    Described(
        "shoal_accelerator_bytes", "gauge", ("device", "kind"), "bytes",
        "Memory for models on an accelerator. kind: budget, used, reserved for loads in progress, "
        "or besides: what frameworks hold there beyond the models. Absent without accelerators.",
    ),
    Described("shoal_copies", "gauge", (), "", "Copies in memory."),
    Described("shoal_waiting_requests", "gauge", (), "", "Requests that wait for a load."),
    Described(
        "shoal_cache_age_seconds", "gauge", (), "seconds",
        "Time since the last use of the copy evicted last; absent before the first eviction.",
    ),
    Described(
        "shoal_pressure", "gauge", (), "per hour",
        "How often an hour the cache turns over: bytes loaded over the budget.",
    ),
    Described("shoal_process_bytes", "gauge", (), "bytes", "Memory this process holds in all."),
    Described(
        "shoal_unbooked_bytes", "gauge", (), "bytes",
        "Memory the process grew by beyond what its models are booked for: recycle.max_leak_share.",
    ),
    Described(
        "shoal_worker_restarts_total", "counter", ("reason",), "",
        "Workers that came after another one in the same place. reason: died; hung; leak; growth "
        "and age, by the settings of recycle; asked, by SIGHUP.",
    ),
    Described("shoal_registered_models", "gauge", (), "", "Models that are declared."),
    Described("shoal_http_connections", "gauge", (), "", "Open connections of the HTTP port."),
    Described("shoal_grpc_connections", "gauge", (), "", "Open connections of the gRPC port."),
    Described(
        "shoal_workers_unreachable", "gauge", (), "",
        "Workers with no metrics on this page; absent with a single process.",
    ),
)

BY_NAME: Final = {described.name: described for described in METRICS}

GAUGES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "budget_bytes": ("shoal_cache_bytes", ("budget",)),
    "used_bytes": ("shoal_cache_bytes", ("used",)),
    "reserved_bytes": ("shoal_cache_bytes", ("reserved",)),
    "copies": ("shoal_copies", ()),
    "waiting_requests": ("shoal_waiting_requests", ()),
    "cache_age_s": ("shoal_cache_age_seconds", ()),
    "pressure": ("shoal_pressure", ()),
    "process_bytes": ("shoal_process_bytes", ()),
    "unbooked_bytes": ("shoal_unbooked_bytes", ()),
    "registered_models": ("shoal_registered_models", ()),
    "http_connections": ("shoal_http_connections", ()),
    "grpc_connections": ("shoal_grpc_connections", ()),
    "workers_unreachable": ("shoal_workers_unreachable", ()),
}
"""Keys of `Metrics.gauges`: the metric each is, and the values of its labels."""
