"""`shoal simulate`: reading traces, playing them, telling what they would see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from shoal.cli.main import app
from shoal.domain.errors import InvalidSpecification
from shoal.simulation.fleet import Fleet, FleetOptions
from shoal.simulation.planning import POLICIES, Plan, alternatives, simulate
from shoal.simulation.results import Counts
from shoal.simulation.traces import (
    About,
    Trace,
    drifting,
    made_up,
    read_models,
    read_trace,
    zipf,
)

run = CliRunner().invoke


# --- traces -------------------------------------------------------------------------------------


def test_lines_of_csv_and_json_are_read_alike() -> None:
    csv, models = read_trace(["seconds,model,size", "5,a,100", "7.5,b", "", "6,a"], "t")
    lines, same = read_trace(
        ['{"seconds": 5, "model": "a", "size": 100}', '{"seconds": 7.5, "model": "b"}',
         '{"seconds": 6, "model": "a"}'], "t")
    assert csv.at.tolist() == lines.at.tolist() == [0.0, 1.0, 2.5]
    assert csv.models.tolist() == lines.models.tolist() == [0, 0, 1]
    assert models.sizes.tolist() == same.sizes.tolist()
    assert models.sizes[0] == 100


def test_what_is_known_of_models_replaces_what_is_made_up() -> None:
    known = read_models(["name,bytes,load_s", "a,2e6,0.5", "b,1000"], "m")
    assert known == {"a": About(2_000_000, 0.5), "b": About(1000)}
    _, models = read_trace(["0,a,7", "1,b", "2,c"], "t", known)
    assert models.sizes[:2].tolist() == [2_000_000, 1000]
    assert models.load_s[0] == 0.5
    assert models.record("b").revisions[0].memory_bytes == 1000


@pytest.mark.parametrize(
    "line",
    ["x", "1", "one,a", "1,", "1,a,-5", '{"seconds": 1}', "nan,a", "1,a,inf", "1,a,1e30"],
)
def test_a_line_that_is_no_request_is_named(line: str) -> None:
    with pytest.raises(InvalidSpecification, match=r"requests\.csv, line 2"):
        read_trace(["0,a", line], "requests.csv")


@pytest.mark.parametrize(
    "line", ["a", "a,many", "a,0", "a,5,-1", "a,inf", "a,1e30", "a,5,nan", "a,5,inf"]
)
def test_a_line_that_is_no_model_is_named(line: str) -> None:
    with pytest.raises(InvalidSpecification, match=r"models\.csv, line 1"):
        read_models([line], "models.csv")


def test_a_trace_without_requests_is_refused() -> None:
    with pytest.raises(InvalidSpecification, match="holds no requests"):
        read_trace(["seconds,model"], "t")


def test_popularity_follows_zipfs_law_and_drifts() -> None:
    trace = zipf(100, 1.0, 100.0, 200.0, seed=3)
    counts = np.bincount(trace.models, minlength=100)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.3)
    moved = drifting(trace, 100, 0.5, 50.0, seed=3)
    assert np.array_equal(moved.models[:1000], trace.models[:1000])
    assert not np.array_equal(moved.models, trace.models)


# --- what they would see ------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_counted_once_by_every_policy(policy: str) -> None:
    trace, models = zipf(200, 1.0, 5.0, 400.0, seed=2), made_up(200, seed=2)
    result = simulate(trace, models, Plan(3, models.total_bytes // 30, policy, warm_up=0.0))
    assert result.requests == len(trace.at)
    assert result.hits + result.cold + result.refused == result.requests
    assert result.loads > 50
    assert result.evictions > 10


def test_a_trace_gives_the_same_figures_again() -> None:
    trace, models = zipf(100, 1.0, 5.0, 200.0, seed=2), made_up(100, seed=2)
    plan = Plan(2, models.total_bytes // 20)
    assert simulate(trace, models, plan) == simulate(trace, models, plan)


def test_with_room_for_all_each_model_is_cold_once() -> None:
    trace, models = zipf(50, 0.5, 5.0, 200.0, seed=2), made_up(50, seed=2)
    fleet = Fleet(models, FleetOptions(
        instances=1, memory_bytes=2 * models.total_bytes, warm_up=0.0))
    result = fleet.play(trace, "shoal")
    assert result.loads == len(set(trace.models.tolist()))
    assert (result.evictions, result.refused) == (0, 0)
    assert fleet.is_consistent()


def test_a_wait_is_the_load_and_the_loads_before_it() -> None:
    trace = Trace(np.array([0.0, 0.0]), np.array([0, 1]))
    models = made_up(2, seed=1)
    models.load_s[:] = 2.0
    plan = Plan(1, 2 * models.total_bytes, warm_up=0.0, load_concurrency=1)
    result = simulate(trace, models, plan)
    assert (result.cold, result.added_mean_s, result.added_p99_s) == (2, 3.0, 4.0)


def test_quantiles_are_over_those_who_did_not_wait_too() -> None:
    counts = Counts(0.0)
    counts.hits = 97
    for wait in (1.0, 2.0, 3.0):
        counts.answered(0.0, wait)
    result = counts.result("x", 1, 1, 0)
    assert (result.added_p50_s, result.added_p99_s, result.added_mean_s) == (0.0, 3.0, 0.06)


def test_more_memory_means_fewer_cold_starts() -> None:
    trace, models = zipf(300, 1.0, 5.0, 300.0, seed=2), made_up(300, seed=2)
    plan = Plan(2, models.total_bytes // 40)
    less, *_, most = [simulate(trace, models, each)
                      for each in alternatives(plan, policies=())]
    assert most.cold < less.cold


# --- the command --------------------------------------------------------------------------------


def test_the_command_compares_memory_and_policies(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("".join(f"{each / 5},m{each * 7 % 17},1000000\n" for each in range(300)))
    said = run(app, ["simulate", "--trace", str(trace), "--memory", "4MB", "--instances", "2"])
    assert said.exit_code == 0, said.output
    for word in ("17 models", "modelmesh-fixed", "shoal-lru", "HITS", "15.3 MiB"):
        assert word in said.output


def test_the_command_gives_one_json_document() -> None:
    said = run(app, ["simulate", "--zipf", "50,1.0,2,0.1", "--memory", "100MB", "--json",
                     "--no-compare"])
    document = json.loads(said.stdout)
    assert document["models"] == 50
    assert document["result"]["policy"] == "shoal"
    assert document["alternatives"] == []


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--memory", "1GiB"], "either --trace FILE or --zipf"),
        (["--memory", "1GiB", "--zipf", "5,1"], "is not MODELS,ALPHA,RATE,HOURS"),
        (["--memory", "1GiB", "--zipf", "0,1,1,1"], "all must be positive"),
        (["--memory", "1GiB", "--zipf", "nan,1,1,1"], "all must be positive"),
        (["--memory", "1GiB", "--zipf", "inf,1,1,1"], "are too many"),
        (["--memory", "1GiB", "--zipf", "5,1,1e9,1e9"], "are too many"),
        (["--memory", "much", "--zipf", "5,1,1,1"], "is not a size"),
        (["--memory", "1GiB", "--zipf", "5,1,1,1", "--policy", "fifo"], "there is no policy"),
        (["--memory", "1GiB", "--trace", "nowhere.csv"], "cannot be read"),
    ],
    ids=["nothing", "few-words", "no-models", "no-number", "many-models", "many-requests",
         "no-size", "no-policy", "no-file"],
)
def test_what_is_asked_for_wrongly_is_said(flags: list[str], why: str) -> None:
    said = run(app, ["simulate", *flags])
    assert said.exit_code == 5
    assert why in said.output
