"""Several metrics pages as one."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from shoal.observability.merging import merge
from shoal.observability.metrics import BUCKETS, Metrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def measured(requests: int) -> Metrics:
    metrics = Metrics(per_model=True, max_models=10)
    for _ in range(requests):
        metrics.model("iris").request("v2", "200", 0.002)
    metrics.loaded(0.5, 100)
    metrics.gauges = lambda: {"copies": float(requests)}
    return metrics


def page(text: str) -> bytes:
    return text.encode()


ONE = page("# HELP a Things.\n# TYPE a gauge\na 1.0\na{b=\"c\"} 2.0\n")


def test_every_series_gets_the_label() -> None:
    assert merge("worker", {"7": ONE}) == page(
        '# HELP a Things.\n# TYPE a gauge\na{worker="7"} 1.0\na{worker="7",b="c"} 2.0\n'
    )


def test_a_family_is_described_once_and_its_series_stand_together() -> None:
    other = page("# HELP a Things.\n# TYPE a gauge\na 3.0\n# HELP d D.\n# TYPE d gauge\nd 4.0\n")
    assert merge("worker", {"1": ONE, "2": other}).decode().splitlines() == [
        "# HELP a Things.", "# TYPE a gauge", 'a{worker="1"} 1.0', 'a{worker="1",b="c"} 2.0',
        'a{worker="2"} 3.0', "# HELP d D.", "# TYPE d gauge", 'd{worker="2"} 4.0',
    ]


def test_the_value_of_the_label_is_escaped() -> None:
    assert b'a{worker="\\"\\\\\\n"} 1.0' in merge("worker", {'"\\\n': ONE})


def test_a_name_that_another_begins_with_is_not_mistaken_for_it() -> None:
    both = page("# HELP a A.\n# TYPE a gauge\na 1.0\n# HELP a_b B.\n# TYPE a_b gauge\na_b 2.0\n")
    merged = merge("w", {"1": both}).decode().splitlines()
    assert merged[2::3] == ['a{w="1"} 1.0', 'a_b{w="1"} 2.0']


def test_a_label_value_that_looks_like_a_series_stays_as_it_is() -> None:
    odd = page('# HELP a A.\n# TYPE a gauge\na{b="\\na{c=\\"d\\"} 1"} 2.0\n')
    assert b'a{w="1",b="\\na{c=\\"d\\"} 1"} 2.0\n' in merge("w", {"1": odd})


def test_families_can_be_left_without_the_label() -> None:
    assert merge("worker", {"1": ONE}, without=["a"]) == ONE


def test_a_family_without_series_keeps_its_description() -> None:
    empty = page("# HELP a A.\n# TYPE a gauge\n")
    assert merge("w", {"1": empty, "2": empty}) == empty


def test_what_is_no_metrics_page_is_refused() -> None:
    with pytest.raises(ValueError, match="worker 2"):
        merge("worker", {"1": ONE, "2": b"<html>"})


def test_histograms_keep_their_buckets_count_and_sum() -> None:
    pages = {str(number): measured(number).expose()[0] for number in (1, 3)}
    families = {
        each.name: each
        for each in text_string_to_metric_families(merge("worker", pages).decode())
    }
    of_three = [
        each for each in families["shoal_request_seconds"].samples
        if each.labels["worker"] == "3" and each.labels["model"] == "iris"
    ]
    ends = [each.value for each in of_three if each.labels.get("le") == "+Inf"]
    counts = [each.value for each in of_three if each.name.endswith("_count")]
    assert (ends, counts) == ([3.0], [3.0])
    assert len(of_three) == len(BUCKETS) + len(("+Inf", "count", "sum"))
    assert all(
        "worker" in sample.labels for family in families.values() for sample in family.samples
    )


def test_openmetrics_pages_stay_openmetrics() -> None:
    pages = {str(number): measured(number).expose(OPENMETRICS)[0] for number in (1, 3)}
    merged = merge("worker", pages)
    assert merged.count(b"# EOF\n") == 1
    families = {each.name: each for each in open_families(merged.decode())}  # type: ignore[no-untyped-call]
    totals = {
        each.labels["worker"]: each.value for each in families["shoal_requests"].samples
        if each.labels.get("model") == "iris"
    }
    assert totals == {"1": 1.0, "3": 3.0}
    assert families["shoal_requests"].type == "counter"
