"""Writes the series that carry a model's name, in Prometheus' text formats.

prometheus_client takes 120 ms for those of a thousand models, during which no request would be
answered; this takes a tenth. Only what differs by model is written here: counters and histograms of
known shape. Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/specs/om/open_metrics_spec/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from shoal.observability.metric_names import Described

_END = b"# EOF\n"  # the last line of OpenMetrics, and of it alone


def insert(page: bytes, families: Sequence[str]) -> bytes:
    """The page with more families at its end, in either format."""
    more = "".join(families).encode()
    if page.endswith(_END):
        return page.removesuffix(_END) + more + _END
    return page + more


def counter(
    described: Described, by_model: Iterable[tuple[str, Mapping[tuple[str, str], int]]],
    openmetrics: bool,
) -> str:
    """by_model: (model, counts by the values of the other labels)."""
    name = described.name
    lines = [_head(described, name.removesuffix("_total") if openmetrics else name)]
    others = described.labels[1:]
    for model, counts in by_model:
        start = f'{name}{{model="{_escape(model)}"'
        for values, count in counts.items():
            labels = "".join(
                f',{label}="{_escape(value)}"' for label, value in zip(others, values, strict=True)
            )
            lines.append(f"{start}{labels}}} {count}.0\n")
    return "".join(lines)


def histogram(
    described: Described,
    bounds: Sequence[str],
    by_model: Iterable[tuple[str, Sequence[int], float]],
) -> str:
    """bounds: upper ends as text, `+Inf` last. by_model: (model, counts by bucket, sum)."""
    name = described.name
    lines = [_head(described, name)]
    ends = [f'le="{bound}"}} ' for bound in bounds]
    for model, counts, total in by_model:
        label = f'{{model="{_escape(model)}"'
        start = f"{name}_bucket{label},"
        so_far = list(accumulate(counts))
        lines += [
            f"{start}{end}{count}.0\n" for end, count in zip(ends, so_far, strict=True)
        ]
        lines.append(f"{name}_count{label}}} {so_far[-1]}.0\n{name}_sum{label}}} {total!r}\n")
    return "".join(lines)


def _head(described: Described, name: str) -> str:
    return f"# HELP {name} {_escape(described.meaning)}\n# TYPE {name} {described.type}\n"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
