"""What the benchmarks of the mesh have in common: their options, a mesh on an etcd that is theirs,
models that are warm, and a line of JSON."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.etcd_server import EtcdServer

from benchmarks.mesh_load import Load, Plan
from benchmarks.mesh_world import Flag, Node, World


def arguments(
    description: str | None, *, rate: float = 500.0, seconds: float = 60.0, models: int = 100
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=rate, help="requests a second, over all")
    parser.add_argument("--seconds", type=float, default=seconds, help="of the load, about")
    parser.add_argument("--models", type=int, default=models)
    parser.add_argument("--instances", type=int, default=3)
    return parser


@dataclass(frozen=True)
class Warm:
    """A mesh whose models `names` are registered and were asked for. spare: of further ones there
    are only the files."""

    world: World
    etcd: EtcdServer
    names: list[str]
    spare: list[str]

    def load(self, plan: Plan) -> Load:
        """Clients of all instances."""
        return Load(plan, *targets(self.world.nodes))


@contextmanager
def warm_mesh(
    options: argparse.Namespace, *flags: Flag, warm: float = 1.0, spare: int = 0
) -> Iterator[Warm]:
    """warm: share of the models that were asked for."""
    with mesh(options.instances, *flags) as (world, etcd):
        made = world.make_models(options.models + spare)
        names = made[: options.models]
        world.register(names)
        warm_up(world, names[: round(warm * len(names))])
        yield Warm(world, etcd, names, made[options.models :])


@contextmanager
def mesh(count: int, *flags: Flag) -> Iterator[tuple[World, EtcdServer]]:
    """Instances that load nothing before they are asked."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EtcdServer() as etcd,
        World(Path(folder), etcd.url, "--cache-fill", "none", *flags) as world,
    ):
        world.start(*[() for _ in range(count)])
        yield world, etcd


def targets(nodes: Sequence[Node]) -> list[tuple[str, str]]:
    return [(node.name, node.url) for node in nodes]


def warm_up(world: World, names: Sequence[str]) -> None:
    """Every model is loaded somewhere, and every instance knows where."""
    with Load(Plan(names, 200.0), *targets(world.nodes)) as load:
        for _ in range(3):
            load.goes_on(len(names))
    if load.failures():
        raise RuntimeError(f"requests fail before anything happened: {dict(load.failures())}")


def counted(load: Load, *, without: Sequence[str] = ()) -> dict[str, object]:
    """The figures that all of them have."""
    return {
        "requests": load.requests,
        "failed_requests": load.failures(without=without).total(),
    }


def tell(figures: Mapping[str, object], load: Load) -> None:
    """The last line; and why requests failed, if any did."""
    for reason, count in load.failures().most_common(5):
        print(f"{count} failed: {reason}")
    print(json.dumps(figures))
