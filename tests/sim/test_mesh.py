"""What a mesh of real cores promises, one promise a test, in made-up time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec
import pytest

from shoal.simulation.host import Host
from shoal.simulation.requests import Outcome, Request
from shoal.simulation.world import Shape, World

CALM = Shape(instances=3, models=20, room=3.0, load_s=(0.1, 0.5))


def mesh(shape: Shape, seed: int = 1) -> World:
    """Plain models in instances that know each other."""
    world = World(seed, shape)
    for record in list(world.records.values()):
        plain = msgspec.structs.replace(
            record.spec, pin=False, min_copies=0, max_copies=None, placement=None, repeatable=True)
        world.declare(msgspec.structs.replace(
            record, spec=plain, revisions=record.revisions[:1]))
    for number in range(shape.instances):
        world.join(f"i{number}")
    world.agenda.run_until(3.0)
    return world


class Traffic:
    """`rate` requests a second to the models of `choose`, through instances that take them."""

    def __init__(
        self, world: World, rate: float, choose: Callable[[Random], int],
        through: Callable[[Host], bool] = lambda host: not host.draining,
    ) -> None:
        self.requests: list[Request] = []
        self.rate = rate
        self.choose = choose
        self._world = world
        self._through = through
        self._chance = Random(7)
        self._next()

    def _next(self) -> None:
        world, chance = self._world, self._chance
        hosts = [host for host in world.accepting if self._through(host)]
        if self.rate:
            name = f"m{self.choose(chance)}"
            self.requests.append(world.ask(chance.choice(hosts), (name, None)))
            world.agenda.after(chance.expovariate(self.rate), self._next)

    def failed(self) -> list[Request]:
        return [each for each in self.requests
                if each.outcome not in (Outcome.ANSWERED, Outcome.OPEN)]

    def slow_since(self, when: float, seconds: float = 0.09) -> list[Request]:
        """Those that must have waited for a load."""
        return [each for each in self.requests
                if each.at > when and each.ended_at - each.at > seconds]


def evenly(models: int) -> Callable[[Random], int]:
    return lambda chance: chance.randrange(models)


@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_cold_requests_through_all_entries_are_one_load(seed: int) -> None:
    world = mesh(Shape(instances=7, models=5, room=9.0, service_s=(1e-5, 1e-5), check_every=10,
                       options={"fill_share": 0.0}), seed)
    chance = Random(seed)
    asked = []
    for _ in range(1000):
        world.agenda.run_until(world.agenda.now + chance.choice((0.0, 0.0001)))
        asked.append(world.ask(chance.choice(world.accepting), ("m3", None)))
    world.agenda.run_until(world.agenda.now + 5)
    assert all(each.outcome is Outcome.ANSWERED for each in asked)
    assert world.safety.loads == 1


def test_every_instance_is_replaced_and_nobody_notices() -> None:
    world = mesh(CALM)
    traffic = Traffic(world, 20.0, evenly(6))
    world.agenda.run_until(20.0)
    for number in range(3):
        world.join(f"i{number + 3}")
        world.agenda.run_until(world.agenda.now + 4)
        world.hosts[f"i{number}"].drain()
        world.agenda.run_until(world.agenda.now + 12)
    world.bury()
    assert list(world.hosts) == ["i3", "i4", "i5"]
    assert traffic.failed() == []
    assert traffic.slow_since(20.0) == []


def test_an_instance_that_ends_is_missed_by_nobody_who_asks_the_others() -> None:
    world = mesh(CALM)
    traffic = Traffic(world, 50.0, evenly(6), lambda host: host.id != "i0")
    world.agenda.run_until(40.0)
    world.end("i0")
    world.agenda.run_until(60.0)
    assert traffic.failed() == []
    assert traffic.slow_since(42.0) == [], "what was hot is warm again"


def test_without_a_registry_everything_goes_on() -> None:
    world = mesh(CALM)
    traffic = Traffic(world, 20.0, evenly(20))
    world.agenda.run_until(10.0)
    world.registry.set_down(True)
    world.agenda.run_until(70.0)
    assert not world.declare(world.new_record("m1"))
    world.registry.set_down(False)
    world.agenda.run_until(80.0)
    assert traffic.failed() == []
    assert all(len(host.core.view.members) == 3 for host in world.hosts.values())


def test_a_new_revision_takes_over_without_a_gap() -> None:
    world = mesh(CALM)
    traffic = Traffic(world, 20.0, lambda _: 3)
    world.agenda.run_until(10.0)
    fresh = world.new_record("m3")
    assert world.declare(fresh)
    world.agenda.run_until(20.0)
    assert traffic.failed() == []
    assert traffic.slow_since(5.0) == []
    assert {each.revision for each in traffic.requests if each.at > 13} == {fresh.revisions[-1].id}
    old = [key for host in world.hosts.values() for key in host.live
           if key.startswith("m3@") and key != fresh.revisions[-1].id]
    assert old == []


def test_a_revision_that_does_not_load_never_answers() -> None:
    world = mesh(CALM)
    traffic = Traffic(world, 20.0, lambda _: 3)
    world.agenda.run_until(10.0)
    before = {each.revision for each in traffic.requests if each.revision}
    assert world.declare(world.new_record("m3", broken=True))
    world.agenda.run_until(30.0)
    assert traffic.failed() == []
    assert {each.revision for each in traffic.requests if each.revision} == before


def test_a_hot_model_gets_the_copies_that_it_needs_and_gives_them_back() -> None:
    shape = Shape(instances=6, models=30, room=1.2, service_s=(0.02, 0.04),
                  options={"surplus_s": 5.0, "fill_share": 0.0})
    world = mesh(shape)
    traffic = Traffic(world, 5.0, evenly(30))
    world.agenda.run_until(20.0)
    traffic.rate, traffic.choose = 20.0, lambda chance: 0 if chance.random() < 0.9 else 1
    world.agenda.run_until(30.0)
    # 18 requests a second of 0.03 s each: 0.54 at a time; a copy is for 0.05 of 2 processors.
    assert copies_of(world, "m0") == 6
    traffic.rate, traffic.choose = 20.0, evenly(30)
    world.agenda.run_until(180.0)
    assert copies_of(world, "m0") <= 3
    assert traffic.failed() == []


def copies_of(world: World, model: str) -> int:
    return sum(key.startswith(f"{model}@") for host in world.hosts.values() for key in host.live)


def test_pressure_is_alike_whatever_instances_hold() -> None:
    shape = Shape(instances=5, models=300, room=0.3, load_s=(0.01, 0.1), check_every=50,
                  options={"fill_share": 0.0})
    world = mesh(shape)
    Traffic(world, 60.0, evenly(300))
    world.agenda.run_until(120.0)
    pressures = [host.core.cache.ledger.pressure_per_h(host.options.budget_bytes, host.now)
                 for host in world.hosts.values()]
    assert max(pressures) < 1.5 * min(pressures)
    assert min(pressures) > 1.0


def test_instances_that_join_take_their_share() -> None:
    world = mesh(Shape(instances=1, models=60, room=0.7, load_s=(0.01, 0.1)))
    traffic = Traffic(world, 30.0, evenly(60))
    world.agenda.run_until(15.0)
    for number in (1, 2, 3):
        world.join(f"i{number}")
    world.agenda.run_until(60.0)
    held = [len(host.live) for host in world.hosts.values()]
    assert min(held) >= 8
    assert traffic.failed() == []


def test_what_may_have_run_is_run_again_only_where_that_is_allowed() -> None:
    world = mesh(Shape(instances=2, models=4, room=3.0, service_s=(0.5, 0.5),
                       options={"fill_share": 0.0, "target_share": 10.0}))
    record = world.records["m0"]
    once = msgspec.structs.replace(record, spec=msgspec.structs.replace(
        record.spec, repeatable=False))
    world.declare(once)
    world.agenda.run_until(5.0)
    for host in world.accepting:
        world.ask(host, ("m0", None))
        world.ask(host, ("m1", None))
    world.agenda.run_until(10.0)
    asked = {(host.id, name): world.ask(host, (name, None))
             for host in world.accepting for name in ("m0", "m1")}
    world.agenda.run_until(world.agenda.now + 0.2)
    world.network.break_links("i0", "i1")
    world.agenda.run_until(world.agenda.now + 5)
    forwarded = {key: each for key, each in asked.items() if each.forwards}
    assert {name for _, name in forwarded} == {"m0", "m1"}
    for (_, name), request in forwarded.items():
        wanted = Outcome.REFUSED if name == "m0" else Outcome.ANSWERED
        assert request.outcome is wanted
        assert request.runs == (1 if name == "m0" else 2)
