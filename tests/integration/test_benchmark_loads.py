"""The servers that benchmarks compare with answer, and the loads on them count right answers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks import flowers
from benchmarks.channels import Unanswered
from benchmarks.closed_loop import GrpcTarget, Target, load, measure
from benchmarks.cold_models import FORMATS
from benchmarks.open_loop import latencies_ms
from benchmarks.processes import processor_s, servers

At = dict[str, tuple[int, int]]
TINY = Namespace(rounds=1, seconds=0.05, connections=8)
AS_BYTES = flowers.right_parts()[1]


@pytest.fixture(scope="module")
def at() -> Iterator[At]:
    with servers("benchmarks.servers", ["bare-http", "bare-grpc", "grpcio-sync"]) as found:
        yield found


@pytest.mark.parametrize("kind", ["bare-grpc", "grpcio-sync"])
def test_a_closed_loop_of_grpc_calls(at: At, kind: str) -> None:
    target = GrpcTarget(*at[kind], flowers.w3(), lambda answer: AS_BYTES in answer)
    assert load(target, TINY) > 8


def test_a_measurement_gives_the_ratio_of_processor_time(at: At) -> None:
    def target(request: bytes) -> Target:
        return Target(*at["bare-http"], [request], lambda answer: b"HTTP/1.1 200" in answer)

    before = processor_s(at["bare-http"][0])
    ratios = measure({"w1": target(flowers.W1), "w2": target(flowers.W2)}, TINY)
    assert ratios["w1"] == 1
    assert ratios["w2"] > 0
    assert processor_s(at["bare-http"][0]) > before


def test_a_wrong_answer_ends_a_benchmark(at: At) -> None:
    target = Target(*at["bare-http"], [flowers.W1], lambda answer: False)
    with pytest.raises(Unanswered, match="a wrong answer"):
        load(target, TINY)


def test_an_open_loop_has_every_request_answered(at: At) -> None:
    target = GrpcTarget(*at["bare-grpc"], flowers.w3(), lambda answer: AS_BYTES in answer)
    assert len(latencies_ms(target.connect(8), rate=1000, seconds=0.05)) == 50


@pytest.mark.parametrize("name", ["onnx", "sklearn", "python"])
def test_models_of_a_format_differ_and_run(name: str, tmp_path: Path) -> None:
    kind = FORMATS[name]
    paths = [tmp_path / kind.file.format(name=name) for name in ("a", "b")]
    for seed, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        kind.write(path, seed)
        kind.run(path)
    assert paths[0].read_bytes() != paths[1].read_bytes()
