"""The command that tells what a trace of requests would see with so many instances and so much
memory: capacity planning by the real decisions, in made-up time.

Knows how figures are shown; what they are is the business of `simulation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from shoal.cli import render
from shoal.cli.flags import taking
from shoal.domain.errors import InvalidSpecification
from shoal.settings.kinds import parse_bytes

if TYPE_CHECKING:
    from shoal.simulation.results import Result
    from shoal.simulation.traces import Catalogue, Trace

_MOST: Final = 100_000_000  # made-up models, and requests: gigabytes of memory
_HEADINGS: Final = (
    "POLICY", "MEMORY", "HITS", "COLD", "REFUSED", "ADDED MEAN", "ADDED P99", "LOADED",
    "EVICTIONS", "COPIES",
)


@dataclass(frozen=True, slots=True)
class Flags:
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory for models of each instance: `4GiB`.")
    ]
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False,
            help="Requests: lines of `seconds,model[,bytes]`, or JSON objects with `seconds`, "
                 "`model` and `size`.",
        ),
    ] = None
    zipf: Annotated[
        str | None,
        typer.Option(
            metavar="MODELS,ALPHA,RATE,HOURS", show_default=False,
            help="Made-up requests instead: to so many models by Zipf's law, so many a second.",
        ),
    ] = None
    instances: Annotated[int, typer.Option(min=1, help="How many there are.")] = 1
    models: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False,
            help="What the models are like: lines of `name,bytes[,load_s]`; otherwise made up.",
        ),
    ] = None
    policy: Annotated[
        str,
        typer.Option(
            help="`shoal`; for comparison `shoal-lru`, which evicts what was used longest ago, "
                 "`modelmesh` and `modelmesh-fixed`."
        ),
    ] = "shoal"
    compare: Annotated[
        bool,
        typer.Option(
            "--compare/--no-compare", help="Also with half, twice and four times the memory, and "
                                           "by the other policies.",
        ),
    ] = True
    warm_up: Annotated[
        float,
        typer.Option(min=0.0, max=0.99, help="Share of the trace that fills the caches and is "
                                             "not counted."),
    ] = 0.5
    service: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, help="What a request takes.")
    ] = 0.01
    load_concurrency: Annotated[
        int, typer.Option(min=1, help="Loads at once on an instance.")
    ] = 2
    seed: Annotated[int, typer.Option(help="Of all that is made up.")] = 1
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False


@taking(Flags)
def simulate(context: typer.Context, flags: Flags) -> None:
    """Tell what a trace of requests would see: hits, cold starts, waiting, evictions.

    The requests go through the real decisions of so many instances, in made-up time, and the
    figures are of the part after the warm-up. What more memory or another policy would give is told
    beside it. No server is asked.
    """
    from shoal.cli.side_by_side import play_all
    from shoal.simulation.planning import POLICIES, Plan, alternatives

    if flags.policy not in POLICIES:
        raise InvalidSpecification(
            f"there is no policy {flags.policy!r}; there are {', '.join(POLICIES)}")
    memory_bytes = _size(flags.memory)
    trace, catalogue = _requests(flags)
    plan = Plan(
        flags.instances, memory_bytes, flags.policy, flags.warm_up, flags.service,
        flags.load_concurrency, flags.seed)
    plans = [plan, *(alternatives(plan) if flags.compare else ())]
    results = []
    for each, result in zip(plans, play_all(trace, catalogue, plans), strict=True):
        results.append(result)
        render.warn(f"{each.policy}, {render.size(each.memory_bytes)}: done")
    if flags.as_json:
        render.write_json(msgspec.json.encode({
            "models": len(catalogue), "models_bytes": catalogue.total_bytes,
            "seconds": trace.span_s, "result": results[0], "alternatives": results[1:],
        }))
        return
    _tell(trace, catalogue, results)


def _tell(trace: Trace, catalogue: Catalogue, results: list[Result]) -> None:
    first = results[0]
    render.say(
        f"{render.number(len(trace.at))} requests in {render.duration(trace.span_s)} to "
        f"{render.number(len(catalogue))} models of {render.size(catalogue.total_bytes)}; "
        f"{first.instances} instance{'s' if first.instances > 1 else ''} of "
        f"{render.size(first.memory_bytes)} each; {render.number(first.requests)} requests counted")
    render.table(_HEADINGS, (_row(each) for each in results))


def _row(result: Result) -> tuple[str, ...]:
    def share(count: int) -> str:
        return f"{count / max(result.requests, 1):.2%}"

    return (
        result.policy, render.size(result.memory_bytes), share(result.hits), share(result.cold),
        share(result.refused), render.duration(result.added_mean_s),
        render.duration(result.added_p99_s), render.size(result.loaded_bytes),
        render.number(result.evictions), render.number(result.copies),
    )


# --- what was asked for ---------------------------------------------------------------------------


def _size(text: str) -> int:
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise InvalidSpecification(f"--memory: {error}") from None
    if not isinstance(size, int) or size < 1:
        raise InvalidSpecification(f"--memory: {text!r} is not a size; write for example 4GiB")
    return size


def _requests(flags: Flags) -> tuple[Trace, Catalogue]:
    from shoal.simulation import traces

    known = traces.read_models(_lines(flags.models), str(flags.models)) if flags.models else {}
    if (flags.trace is None) == (flags.zipf is None):
        raise InvalidSpecification("say either --trace FILE or --zipf MODELS,ALPHA,RATE,HOURS")
    if flags.trace is not None:
        return traces.read_trace(_lines(flags.trace), str(flags.trace), known, flags.seed)
    assert flags.zipf is not None
    models, alpha, rate, hours = _zipf(flags.zipf)
    trace = traces.zipf(models, alpha, rate, hours * 3600.0, flags.seed)
    return trace, traces.made_up(models, flags.seed)


def _zipf(text: str) -> tuple[int, float, float, float]:
    try:
        models, alpha, rate, hours = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidSpecification(
            f"--zipf: {text!r} is not MODELS,ALPHA,RATE,HOURS, for example 10000,1.0,50,2"
        ) from None
    if not (models >= 1 and alpha >= 0 and rate > 0 and hours > 0):
        raise InvalidSpecification(f"--zipf: {text!r}: all must be positive")
    if not (models <= _MOST and alpha < math.inf and rate * hours * 3600 <= _MOST):
        raise InvalidSpecification(
            f"--zipf: {text!r}: more than {_MOST:,} models or requests are too many")
    return int(models), alpha, rate, hours


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidSpecification(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidSpecification(f"{path} is not text; write CSV or JSON lines") from None
