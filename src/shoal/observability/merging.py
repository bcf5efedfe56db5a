"""Joins the metrics pages of several processes into one, each series with a label for its process.

Works on families as a whole, not on lines: a page can have a hundred thousand. So it takes what
`Metrics.expose` writes, in either format, and nothing freer: a family begins with its HELP. Must
not know what is measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

_END: Final = b"# EOF\n"  # the last line of OpenMetrics, and of it alone
_HELP: Final = b"# HELP "

# What the samples of a family may be called beyond its name, by its type:
# https://prometheus.io/docs/specs/om/open_metrics_spec/#metric-types
_SUFFIXES: Final = {
    b"counter": (b"", b"_total", b"_created"),
    b"histogram": (b"_bucket", b"_count", b"_sum", b"_created"),
    b"gaugehistogram": (b"_bucket", b"_gcount", b"_gsum"),
    b"summary": (b"", b"_count", b"_sum", b"_created"),
    b"info": (b"", b"_info"),
}


@dataclass(slots=True)
class _Family:
    """head: its lines HELP, TYPE and UNIT, of the first page that has it."""

    head: bytes
    samples: list[bytes] = field(default_factory=list)


def merge(label: str, pages: Mapping[str, bytes], without: Collection[str] = ()) -> bytes:
    """One page of the `pages`, all in one format, by the value that `label` gets in their series.

    without: names of families whose series stay as they are.
    Raises ValueError for what is no metrics page.
    """
    families: dict[bytes, _Family] = {}
    kept = {name.encode() for name in without}
    ended = False
    for value, page in pages.items():
        if page and not page.startswith(_HELP):
            raise ValueError(f"the page of {label} {value} does not begin with a metric")
        ended = ended or page.endswith(_END)
        pair = f'{label}="{_escape(value)}"'.encode()
        # In a page, a new line is the end of a line: within values it is escaped.
        for text in page.removesuffix(_END).removeprefix(_HELP).split(b"\n" + _HELP):
            if not text:
                continue
            name = text.split(None, 1)[0]
            head, kind, samples = _split(text if text.endswith(b"\n") else text + b"\n")
            family = families.setdefault(name, _Family(_HELP + head))
            if samples:
                family.samples.append(
                    samples if name in kept else _labelled(samples, name, kind, pair)
                )
    parts = [
        part for family in families.values() for part in (family.head, *family.samples)
    ]
    return b"".join(parts) + (_END if ended else b"")


def _split(text: bytes) -> tuple[bytes, bytes, bytes]:
    """A family's head, type and samples."""
    kind = b""
    end = text.index(b"\n") + 1
    while text.startswith(b"# ", end):
        start, end = end, text.index(b"\n", end) + 1
        if text.startswith(b"# TYPE ", start):
            kind = text[start:end].split()[-1]
    return text[:end], kind, text[end:]


def _labelled(samples: bytes, name: bytes, kind: bytes, pair: bytes) -> bytes:
    text = b"\n" + samples
    for suffix in _SUFFIXES.get(kind, (b"",)):
        start = b"\n" + name + suffix
        text = text.replace(start + b"{", start + b"{" + pair + b",")
        text = text.replace(start + b" ", start + b"{" + pair + b"} ")
    return text[1:]


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
