"""Answers of the management API for tests, and the command line that asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from typer.testing import CliRunner, Result

from shoal.cli.main import app
from shoal.domain.views import (
    BusyModel,
    EventView,
    InstanceView,
    Latency,
    ModelView,
    State,
    Status,
    Totals,
    VersionView,
)

API: Final = "/api/v1"
MIB: Final = 1024**2


def view(name: str, state: State = State.READY, problem: str | None = None) -> ModelView:
    version = VersionView(
        version=3, revision=f"{name}@3-0", state=state, format="onnx", uri=f"/models/{name}/3",
        files_bytes=2 * MIB, size_bytes=3 * MIB + MIB // 2, last_used=1.0, requests=1234,
    )  # fmt: skip
    return ModelView(
        name=name, state=state, uri=f"/models/{name}", origin="api", registered_at=1.0,
        versions=[version], default_version=3, problem=problem,
    )  # fmt: skip


STATUS: Final = Status(
    ready=True,
    models=2,
    by_state={"ready": 1, "cold": 1, "failed": 0},
    totals=Totals(requests=1500, failed=2, hits=1400, cold=100, loads=7, evictions=3),
    latency=Latency(0.0012, 0.002, 0.0104, 1.5),
    cold_latency=Latency(),
    instances=[
        InstanceView(
            id="box-1", host="box", pid=7, version="0.1.0", state="ready", started_at=1.0,
            http_address="127.0.0.1:8080", management_address="127.0.0.1:8082",
            budget_bytes=4096 * MIB, used_bytes=1536 * MIB, reserved_bytes=0,
            process_bytes=2048 * MIB, copies=1, loading=0, queued=0, waiting_requests=0,
            pressure=0.5, cache_age_s=None, thrashing=False,
        )
    ],
    busiest=[BusyModel("churn", State.READY, 12.5, 0.0005, 3 * MIB)],
    problems=["the disk is nearly full"],
)  # fmt: skip
EVENTS: Final = [
    EventView(1, 1.0, "registered", "registered from /models/churn", "churn"),
    EventView(2, 2.0, "evicted", "left for room", "churn", reason="room_needed"),
    EventView(3, 3.0, "draining", "stops taking requests"),
]

Shoal: TypeAlias = Callable[..., Result]


def shoal_at(url: str) -> Shoal:
    """`shoal` with the arguments it is called with, against the server at `url`."""

    def run(*arguments: str, stdin: str | None = None) -> Result:
        target = ["--server", url, "--management", url, "--timeout", "5"]
        return CliRunner().invoke(app, [*target, *arguments], input=stdin)

    return run
