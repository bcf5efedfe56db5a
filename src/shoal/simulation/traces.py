"""Traces of requests, and what the models in them are like: read from lines, or made up.

Made-up sizes and load times are those that eviction was measured with: sizes lognormal (median
20 MB, sigma 2), load times a constant by format and size / 500 MB/s. Must not know where lines come
from, nor who answers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import ModelRecord, ModelSpec, Revision

MEDIAN_BYTES: Final = 20e6
SIGMA: Final = 2.0
SIZE_LIMITS: Final = (5e5, 8e9)
CONSTANTS_S: Final = (0.0005, 0.05, 1.0, 8.0)  # of a load, by format …
SHARES: Final = (0.4, 0.35, 0.2, 0.05)  # … and how many models have each
READ_BYTES_PER_S: Final = 500e6
MOST_BYTES: Final = 2**50  # of one model; more is a mistake in a line

Floats: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Trace:
    """at: when each request comes, in seconds, ascending. models: which it asks for, by its place
    in the catalogue."""

    at: Floats
    models: Numbers

    @property
    def span_s(self) -> float:
        return float(self.at[-1] - self.at[0]) if len(self.at) else 0.0


class Catalogue:
    """Models by number: their sizes in memory and load times. Records are made when they are asked
    for, so that a million models cost little."""

    def __init__(self, sizes: Numbers, load_s: Floats, names: list[str] | None = None) -> None:
        self.sizes = sizes
        self.load_s = load_s
        self._names = names
        self._numbers = {name: number for number, name in enumerate(names)} if names else {}
        self._records: dict[str, ModelRecord] = {}

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def total_bytes(self) -> int:
        return int(self.sizes.sum())

    def name(self, number: int) -> str:
        return f"m{number}" if self._names is None else self._names[number]

    def number(self, name: str) -> int:
        return int(name[1:]) if self._names is None else self._numbers[name]

    def record(self, name: str) -> ModelRecord:
        record = self._records.get(name)
        if record is None:
            size = int(self.sizes[self.number(name)])
            spec = ModelSpec(name=name, uri=name, memory_bytes=size)
            revision = Revision(
                id=f"{name}@1-0", model=name, version=1, uri=name, format="onnx",
                artifact_digest=name, files_bytes=size, memory_bytes=size)
            record = ModelRecord(name=name, spec=spec, revisions=(revision,))
            self._records[name] = record
        return record


def made_up(models: int, seed: int, names: list[str] | None = None) -> Catalogue:
    """Sizes and load times as of many real models."""
    chance = np.random.default_rng(seed)
    sizes = np.clip(chance.lognormal(np.log(MEDIAN_BYTES), SIGMA, models), *SIZE_LIMITS)
    load_s = chance.choice(CONSTANTS_S, models, p=SHARES) + sizes / READ_BYTES_PER_S
    return Catalogue(sizes.astype(np.int64), load_s, names)


def zipf(models: int, alpha: float, rate: float, seconds: float, seed: int) -> Trace:
    """Requests at `rate` a second on the average, whose models follow Zipf's law."""
    chance = np.random.default_rng(seed)
    count = max(int(rate * seconds), 1)
    at = np.sort(chance.uniform(0.0, seconds, count))
    weights = np.cumsum(1.0 / np.arange(1, models + 1) ** alpha)
    ranks = np.searchsorted(weights, chance.uniform(0.0, weights[-1], count))
    return Trace(at, np.minimum(ranks, models - 1).astype(np.int64))


def drifting(trace: Trace, models: int, share: float, every_s: float, seed: int) -> Trace:
    """The same, but so many of the models swap their popularity every `every_s` seconds."""
    chance = np.random.default_rng(seed)
    places = np.arange(models)
    asked = trace.models.copy()
    for begin in np.arange(every_s, float(trace.at[-1]) + every_s, every_s):
        those = chance.choice(models, max(int(share * models), 2), replace=False)
        places[those] = places[chance.permutation(those)]
        first, last = np.searchsorted(trace.at, (begin, begin + every_s))
        asked[first:last] = places[trace.models[first:last]]
    return Trace(trace.at, asked)


# --- from lines ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class About:
    """What somebody knows of a model. load_s None: not told."""

    size_bytes: int
    load_s: float | None = None


class _Line(msgspec.Struct):
    seconds: float
    model: str
    size: int | None = None


def read_trace(
    lines: Iterable[str], where: str, known: Mapping[str, About] | None = None, seed: int = 1
) -> tuple[Trace, Catalogue]:
    """From CSV (`seconds,model[,size]`, a heading or none) or JSON lines with these fields.
    where: for messages. known: of models, by name; the rest is made up. Raises
    InvalidSpecification, which names the line."""
    at, models, sizes = [], [], {}
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or (number == 1 and text.lower().startswith("seconds")):
            continue
        read = _read(text, f"{where}, line {number}")
        at.append(read.seconds)
        models.append(numbers.setdefault(read.model, len(numbers)))
        if read.size is not None:
            sizes[read.model] = read.size
    if not at:
        raise InvalidSpecification(f"{where} holds no requests; lines are 'seconds,model[,size]'")
    order = np.argsort(at, kind="stable")
    when = np.asarray(at)[order]
    trace = Trace(when - when[0], np.asarray(models, dtype=np.int64)[order])
    return trace, _catalogue(list(numbers), sizes, known or {}, seed)


def read_models(lines: Iterable[str], where: str) -> dict[str, About]:
    """From CSV: `name,bytes[,load_s]`, a heading or none. Raises InvalidSpecification."""
    found = {}
    for number, row in enumerate(csv.reader(lines), 1):
        if not row or (number == 1 and row[0].strip().lower() == "name"):
            continue
        try:
            load_s = float(row[2]) if len(row) > 2 and row[2].strip() else None
            about = About(int(float(row[1])), load_s)
        except (ValueError, IndexError, OverflowError):
            raise InvalidSpecification(
                f"{where}, line {number}: {','.join(row)!r} is not 'name,bytes[,load_s]'"
            ) from None
        if not 1 <= about.size_bytes <= MOST_BYTES or not 0.0 <= (load_s or 0.0) < np.inf:
            raise InvalidSpecification(
                f"{where}, line {number}: bytes must be positive, load_s not negative, and both "
                "sensible")
        found[row[0].strip()] = about
    return found


def _read(text: str, where: str) -> _Line:
    try:
        if text.startswith("{"):
            read = msgspec.json.decode(text, type=_Line)
        else:
            seconds, model, *rest = [part.strip() for part in text.split(",")]
            read = _Line(float(seconds), model, int(float(rest[0])) if rest and rest[0] else None)
    except (ValueError, OverflowError, msgspec.DecodeError):
        raise InvalidSpecification(
            f"{where}: {text[:80]!r} is no request; it must be 'seconds,model[,size]' or a JSON "
            "object with these fields") from None
    sized = read.size is None or 1 <= read.size <= MOST_BYTES
    if not read.model or not np.isfinite(read.seconds) or not sized:
        raise InvalidSpecification(f"{where}: {text[:80]!r} has no model, or no sensible figures")
    return read


def _catalogue(
    names: list[str], sizes: Mapping[str, int], known: Mapping[str, About], seed: int
) -> Catalogue:
    invented = made_up(len(names), seed, names)
    for number, name in enumerate(names):
        about = known.get(name)
        size = about.size_bytes if about is not None else sizes.get(name)
        if size is not None:
            seconds = about.load_s if about is not None else None
            constant_s = invented.load_s[number] - invented.sizes[number] / READ_BYTES_PER_S
            invented.sizes[number] = size
            invented.load_s[number] = (
                constant_s + size / READ_BYTES_PER_S if seconds is None else seconds)
    return invented
