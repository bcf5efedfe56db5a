"""Which runtime loads a model, and what is said when none does."""

from __future__ import annotations

import pytest

from shoal.domain.choosing import Wanted, choose
from shoal.domain.errors import (
    NoSupportingRuntime,
    RuntimeDisabled,
    RuntimeNotRecognized,
    ShoalError,
)
from shoal.domain.serving_runtime import DeclaredRuntime, ServingRuntime, SupportedFormat

OWN = ("onnx", "sklearn")


def runtime(
    name: str, *formats: SupportedFormat | str, created_at: float = 1.0, disabled: bool = False,
    protocols: tuple[str, ...] = ("v2", "grpc-v2"),
) -> DeclaredRuntime:
    listed = tuple(SupportedFormat(each) if isinstance(each, str) else each for each in formats)
    return DeclaredRuntime(
        ServingRuntime(name=name, formats=listed, protocols=protocols, command=("serve",),
                       disabled=disabled),
        created_at)


def refused(kind: type[ShoalError], wanted: Wanted, *declared: DeclaredRuntime) -> str:
    with pytest.raises(kind) as found:
        choose(wanted, declared, OWN)
    assert type(found.value) is kind
    return found.value.message


# --- who is chosen ------------------------------------------------------------------------------


def test_without_servers_the_instance_itself_loads() -> None:
    assert choose(Wanted("onnx"), (), OWN) is None
    assert choose(Wanted("onnx", "1", "v1"), (), OWN) is None


def test_a_format_of_a_server_alone_goes_to_the_server() -> None:
    assert choose(Wanted("tensorrt"), [runtime("triton", "tensorrt")], OWN) == "triton"


def test_the_instance_itself_wins_over_equal_priorities() -> None:
    assert choose(Wanted("onnx"), [runtime("a", "onnx")], OWN) is None


def test_a_higher_priority_wins_over_the_instance_itself() -> None:
    declared = [runtime("a", SupportedFormat("onnx", priority=2)),
                runtime("b", SupportedFormat("onnx", priority=3))]
    assert choose(Wanted("onnx"), declared, OWN) == "b"


def test_a_priority_counts_for_its_own_version() -> None:
    both = runtime("a", SupportedFormat("trees", "1", priority=9), SupportedFormat("trees", "2"))
    other = runtime("b", SupportedFormat("trees", "2", priority=5))
    assert choose(Wanted("trees", "2"), [both, other], OWN) == "b"
    assert choose(Wanted("trees"), [both, other], OWN) == "a"


def test_of_equals_the_lowest_protocol_then_the_newest_then_the_first_name_wins() -> None:
    grpc = runtime("a", "trees", protocols=("grpc-v2",), created_at=9.0)
    old = runtime("b", "trees", protocols=("v1", "v2"), created_at=1.0)
    new, twin = (runtime(name, "trees", protocols=("grpc-v2", "v1"), created_at=2.0)
                 for name in "dc")
    assert choose(Wanted("trees"), [grpc, old], OWN) == "b"
    assert choose(Wanted("trees"), [grpc, old, new], OWN) == "d"
    assert choose(Wanted("trees"), [grpc, old, new, twin], OWN) == "c"


@pytest.mark.parametrize(("listed", "wanted", "takes"), [
    (None, None, True), (None, "8", True), ("8", None, True), ("8", "8", True), ("8", "8.1", False),
    ("8", "7", False),
], ids=str)
def test_versions_match_where_one_is_not_said_or_both_are_the_same(
    listed: str | None, wanted: str | None, takes: bool
) -> None:
    declared = [runtime("triton", SupportedFormat("tensorrt", listed))]
    if takes:
        assert choose(Wanted("tensorrt", wanted), declared, OWN) == "triton"
    else:
        refused(NoSupportingRuntime, Wanted("tensorrt", wanted), *declared)


def test_the_protocol_must_be_spoken_and_unsaid_may_be_any() -> None:
    declared = [runtime("triton", "tensorrt")]
    assert choose(Wanted("tensorrt", protocol="grpc-v2"), declared, OWN) == "triton"
    assert choose(Wanted("tensorrt"), declared, OWN) == "triton"
    refused(NoSupportingRuntime, Wanted("tensorrt", protocol="v1"), *declared)


def test_whoever_is_disabled_or_not_for_choosing_is_passed_over() -> None:
    declared = [
        runtime("a", SupportedFormat("trees", priority=9), disabled=True),
        runtime("b", SupportedFormat("trees", auto_select=False, priority=8)),
        runtime("c", "trees"),
    ]
    assert choose(Wanted("trees"), declared, OWN) == "c"


# --- a runtime that is named --------------------------------------------------------------------


def test_a_named_runtime_wins_over_everything() -> None:
    declared = [runtime("a", SupportedFormat("onnx", priority=9)),
                runtime("b", SupportedFormat("onnx", auto_select=False))]
    assert choose(Wanted("onnx", runtime="b"), declared, OWN) == "b"
    assert choose(Wanted("onnx", runtime="shoal"), declared, OWN) is None


def test_a_named_runtime_must_be_declared() -> None:
    wanted = Wanted("onnx", runtime="tritn")
    assert refused(RuntimeNotRecognized, wanted, runtime("triton", "onnx")) == (
        "there is no serving runtime 'tritn'; declared are triton and shoal; declare it with "
        "'shoal runtimes apply', or name another one in 'runtime'")
    assert "none but shoal" in refused(RuntimeNotRecognized, Wanted("onnx", runtime="triton"))


def test_a_named_runtime_must_be_enabled() -> None:
    told = refused(RuntimeDisabled, Wanted("onnx", runtime="triton"),
                   runtime("triton", "onnx", disabled=True))
    assert "'triton' is disabled" in told
    assert "'shoal runtimes enable triton'" in told


def test_a_named_runtime_must_load_the_format() -> None:
    triton = runtime("triton", SupportedFormat("tensorrt", "8"), "onnx")
    told = refused(NoSupportingRuntime, Wanted("tensorrt", "9", runtime="triton"), triton)
    assert "does not load the format 'tensorrt' of version '9'; it loads tensorrt:8, onnx" in told
    told = refused(NoSupportingRuntime, Wanted("tensorrt", runtime="shoal"), triton)
    assert "'shoal', which is named, does not load" in told
    told = refused(NoSupportingRuntime, Wanted("onnx", protocol="v1", runtime="triton"), triton)
    assert "does not speak v1; it speaks v2, grpc-v2" in told


# --- what is said when nobody does --------------------------------------------------------------


def test_near_misses_are_told_with_their_reasons() -> None:
    declared = [
        runtime("asleep", "trees", disabled=True),
        runtime("exact", SupportedFormat("trees", auto_select=False)),
        runtime("other", SupportedFormat("trees", "7"), SupportedFormat("trees", "8")),
        runtime("rest", "trees", protocols=("v2",)),
        runtime("unrelated", "flowers"),
    ]
    told = refused(NoSupportingRuntime, Wanted("trees", "9", "v1"), *declared)
    assert told.startswith("no runtime loads the format 'trees' of version '9' for the protocol "
                           "'v1': ")
    for miss in (
        "asleep loads it, but is disabled",
        "exact loads it, but only where it is named (auto_select is off)",
        "other loads trees, but of version 7, 8",
        "rest loads it, but does not speak v1 (v2)",
    ):
        assert miss in told
    assert "unrelated" not in told


def test_without_near_misses_all_formats_are_told() -> None:
    told = refused(NoSupportingRuntime, Wanted("tress"), runtime("r", "trees"))
    assert "shoal loads onnx, sklearn; r loads trees; declare a server for it with" in told
