"""What Prometheus reads, parsed by its own parsers."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shoal.observability.metric_names import GAUGES, METRICS
from shoal.observability.metrics import BUCKETS, Metrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def scrape(metrics: Metrics) -> dict[str, Metric]:
    body, _ = metrics.expose()
    return {family.name: family for family in parse_text(body.decode())}


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Values of one series name by the values of its labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in scrape(metrics).values()
        for sample in family.samples
        if sample.name == name
    }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(per_model=True, max_models=3)


def test_requests_are_counted_by_model_protocol_and_code(metrics: Metrics) -> None:
    iris = metrics.model("iris")
    iris.request("v1", "200", 0.001)
    iris.request("v2", "200", 0.001)
    iris.request("v2", "200", 0.001)
    iris.request("v2", "400", 0.001)
    assert values(metrics, "shoal_requests_total") == {
        ("iris", "v1", "200"): 1, ("iris", "v2", "200"): 2, ("iris", "v2", "400"): 1,
    }


def test_durations_fall_into_their_buckets(metrics: Metrics) -> None:
    iris = metrics.model("iris")
    for seconds in (0.0, 0.0001, 0.00011, 0.7, 60.0, 61.0):
        iris.request("v2", "200", seconds)
    buckets = values(metrics, "shoal_request_seconds_bucket")
    assert buckets["iris", "0.0001"] == 2
    assert buckets["iris", "0.00025"] == 3
    assert buckets["iris", "0.5"] == 3
    assert buckets["iris", "1.0"] == 4
    assert buckets["iris", "60.0"] == 5
    assert buckets["iris", "+Inf"] == 6
    assert values(metrics, "shoal_request_seconds_count")["iris",] == 6
    assert values(metrics, "shoal_request_seconds_sum")["iris",] == pytest.approx(121.70021)


def test_stages_of_all_models_are_measured_together(metrics: Metrics) -> None:
    metrics.model("a").stages(0.25, 0.0, 0.5)
    metrics.model("b").stages(0.25, 2.0, 0.5)
    assert values(metrics, "shoal_request_stage_seconds_sum") == {
        ("queue",): 0.5, ("load",): 2.0, ("compute",): 1.0,
    }
    assert values(metrics, "shoal_request_stage_seconds_count") == {
        ("queue",): 2, ("load",): 2, ("compute",): 2,
    }


def test_requests_that_ran_together_are_counted(metrics: Metrics) -> None:
    for requests in (2, 3, 200):
        metrics.joined(requests)
    buckets = values(metrics, "shoal_joined_requests_bucket")
    assert [buckets[bound,] for bound in ("2", "4", "128", "+Inf")] == [1, 2, 2, 3]
    assert values(metrics, "shoal_joined_requests_sum") == {(): 205}


def test_a_model_keeps_its_object(metrics: Metrics) -> None:
    assert metrics.model("a") is metrics.model("a")
    assert metrics.model("a") is not metrics.model("b")


def test_models_beyond_the_limit_share_series(metrics: Metrics) -> None:
    for name in "abcde":
        metrics.model(name).request("v2", "200", 0.001)
    assert values(metrics, "shoal_requests_total") == {
        ("a", "v2", "200"): 1, ("b", "v2", "200"): 1, ("c", "v2", "200"): 1,
        ("_other", "v2", "200"): 2,
    }


def test_without_names_all_models_share_one_series() -> None:
    metrics = Metrics(per_model=False, max_models=3)
    metrics.model("a").request("v2", "200", 0.001)
    metrics.model("b").request("v2", "200", 0.001)
    assert values(metrics, "shoal_requests_total") == {("", "v2", "200"): 2}


def test_no_models_of_their_own_may_be_wanted() -> None:
    metrics = Metrics(per_model=True, max_models=0)
    metrics.model("a").request("v2", "200", 0.001)
    assert values(metrics, "shoal_requests_total") == {("_other", "v2", "200"): 1}


@pytest.mark.parametrize("name", ["_other", "_none"])
def test_a_model_called_like_a_shared_series_makes_no_second_one(
    metrics: Metrics, name: str
) -> None:
    metrics.model(name).request("v2", "200", 0.001)
    assert values(metrics, "shoal_requests_total") == {("_other", "v2", "200"): 1}
    body, _ = metrics.expose()
    assert body.count(b'shoal_request_seconds_count{model="' + name.encode()) == 1


def test_requests_for_unknown_models_share_one_series(metrics: Metrics) -> None:
    for _ in range(100):
        metrics.no_model.request("v2", "404", 0.001)
    assert values(metrics, "shoal_requests_total") == {("_none", "v2", "404"): 100}


def test_a_forgotten_model_has_no_series_and_makes_room(metrics: Metrics) -> None:
    for name in "abc":
        metrics.model(name).request("v2", "200", 0.001)
    metrics.forget("b")
    metrics.forget("never seen")
    metrics.model("d").request("v2", "200", 0.001)
    assert {labels[0] for labels in values(metrics, "shoal_requests_total")} == {"a", "c", "d"}


def test_loads_are_counted_with_their_time_and_size(metrics: Metrics) -> None:
    metrics.loaded(0.3, 1000)
    metrics.loaded(0.2, 500)
    metrics.load_failed("INVALID_ARTIFACT")
    assert values(metrics, "shoal_loads_total") == {(): 2}
    assert values(metrics, "shoal_loaded_bytes_total") == {(): 1500}
    assert values(metrics, "shoal_load_seconds_sum") == {(): 0.5}
    assert values(metrics, "shoal_load_failures_total") == {("INVALID_ARTIFACT",): 1}


def test_evictions_and_unloads_are_counted_by_reason(metrics: Metrics) -> None:
    metrics.evicted("least_value")
    metrics.evicted("least_value")
    metrics.unloaded("idle")
    assert values(metrics, "shoal_evictions_total") == {("least_value",): 2}
    assert values(metrics, "shoal_unloads_total") == {("idle",): 1}


def test_gauges_are_asked_at_every_scrape(metrics: Metrics) -> None:
    now = {"budget_bytes": 100.0, "used_bytes": 40.0, "copies": 3.0}
    metrics.gauges = lambda: now
    assert values(metrics, "shoal_cache_bytes") == {("budget",): 100, ("used",): 40}
    assert values(metrics, "shoal_cache_age_seconds") == {}
    now["cache_age_s"] = 12.5
    assert values(metrics, "shoal_cache_age_seconds") == {(): 12.5}


def test_a_gauge_that_is_not_described_is_a_fault(metrics: Metrics) -> None:
    metrics.gauges = lambda: {"invented": 1.0}
    with pytest.raises(AssertionError, match="invented"):
        metrics.expose()


def test_every_metric_on_the_page_is_in_the_table_and_the_other_way_round(
    metrics: Metrics,
) -> None:
    metrics.gauges = lambda: dict.fromkeys(GAUGES, 1.0)
    shown = {
        (family.name + ("_total" if family.type == "counter" else "")): family
        for family in scrape(metrics).values()
        if family.name.startswith("shoal_")
    }
    assert set(shown) == {described.name for described in METRICS}
    for described in METRICS:
        family = shown[described.name]
        assert (family.type, family.documentation) == (described.type, described.meaning)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(described.labels)


def test_the_process_is_measured_too(metrics: Metrics) -> None:
    assert "process_resident_memory_bytes" in scrape(metrics)


def test_the_plain_text_format_is_the_default(metrics: Metrics) -> None:
    body, content_type = metrics.expose("text/html, */*")
    assert content_type.startswith("text/plain; version=0.0.4")
    assert not body.endswith(b"# EOF\n")


def test_openmetrics_is_given_when_it_is_asked_for(metrics: Metrics) -> None:
    metrics.model("iris").request("v2", "200", 0.001)
    metrics.loaded(0.1, 10)
    body, content_type = metrics.expose(f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(body.decode())}  # type: ignore[no-untyped-call]
    assert families["shoal_requests"].type == "counter"
    assert families["shoal_requests"].samples[0].value == 1
    bounds = [
        sample.labels["le"]
        for sample in families["shoal_request_seconds"].samples
        if sample.labels.get("model") == "iris" and "le" in sample.labels
    ]
    assert [float(bound) for bound in bounds] == [*BUCKETS, float("inf")]


def test_odd_label_values_are_escaped(metrics: Metrics) -> None:
    odd = 'quote " backslash \\ line\nend é'
    metrics.model(odd).request("v2", odd, 0.001)
    assert values(metrics, "shoal_requests_total") == {(odd, "v2", odd): 1}


def test_a_scrape_in_another_thread_does_not_disturb_counting() -> None:
    metrics = Metrics(per_model=True, max_models=200)
    stop = threading.Event()
    failures: list[Exception] = []

    def read() -> None:
        while not stop.is_set():
            try:
                metrics.expose()
            except Exception as error:  # noqa: BLE001 - any failure is the finding
                failures.append(error)
                return

    thread = threading.Thread(target=read)
    thread.start()
    for n in range(20_000):
        metrics.model(f"m{n % 300}").request("v2", str(n % 50), 0.001)
        if n % 7 == 0:
            metrics.forget(f"m{n % 300}")
    stop.set()
    thread.join()
    assert failures == []
