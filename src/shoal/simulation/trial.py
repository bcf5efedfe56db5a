"""One seed from beginning to end: a world, its faults, their end, and what must be true then.

Must not know how a trial is reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from shoal.simulation.checks import Broken
from shoal.simulation.faults import Faults
from shoal.simulation.healing import check_healed
from shoal.simulation.requests import Outcome
from shoal.simulation.world import Shape, World

WARM_S: Final = 3.0
FAULTS_S: Final = 12.0
HEALING_S: Final = 14.0
LOOK_S: Final = 0.5


@dataclass(slots=True)
class Trial:
    """events: that cores handled. digest: of all of them and what followed, where it is traced."""

    seed: int
    shape: Shape
    happened: list[str] = field(default_factory=list)
    events: int = 0
    loads: int = 0
    seconds: float = 0.0
    outcomes: dict[Outcome, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    broken: str = ""


def report(trial: Trial) -> str:
    """What was not kept, what happened before, and how to see it again."""
    return "\n".join((
        f"seed {trial.seed}: {trial.broken}", f"{trial.shape}", *trial.happened,
        f"again: make sim SEED={trial.seed}",
    ))


def play(seed: int, shape: Shape | None = None, *, traced: bool = False) -> Trial:
    """What became of it; `broken` says which promise was not kept, empty: none."""
    world = World(seed, shape or Shape.drawn(seed, traced=traced))
    trial = Trial(seed, world.shape)
    faults: Faults | None = None
    try:
        for number in range(world.shape.instances):
            world.join(f"i{number}")
        Clients(world, seed, WARM_S + FAULTS_S + 2.0)
        _run(world, WARM_S)
        faults = Faults(world, seed, WARM_S + FAULTS_S, Random(seed).choice((0.3, 1.0, 3.0)))
        _run(world, WARM_S + FAULTS_S)
        faults.heal()
        _run(world, WARM_S + FAULTS_S + HEALING_S)
        check_healed(world)
    except Broken as error:
        trial.broken = f"{error} (at {world.agenda.now:.3f} s)"
    except Exception as error:  # noqa: BLE001 — reported, with the seed that shows it
        trial.broken = (f"{type(error).__name__} {error} in {_place(error)} (at "
                        f"{world.agenda.now:.3f} s)")
    safety = world.safety
    trial.happened = faults.happened if faults is not None else []
    trial.events, trial.loads, trial.seconds = safety.events, safety.loads, world.agenda.now
    trial.outcomes, trial.refusals = dict(safety.outcomes), dict(safety.refusals)
    trial.digest = safety.digest.hexdigest()
    return trial


def _run(world: World, until: float) -> None:
    while world.agenda.now < until:
        world.agenda.run_until(min(world.agenda.now + LOOK_S, until))
        for host in world.hosts.values():
            if host.alive:
                world.safety.look(host)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "somewhere"
    code = trace.tb_frame.f_code
    return f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} in {code.co_name}"


class Clients:
    """Send requests to instances that take them, to models of uneven popularity, until `until`."""

    def __init__(self, world: World, seed: int, until: float) -> None:
        self._world = world
        self._until = until
        self._chance = Random(f"clients {seed}")
        self._rate = self._chance.choice((5.0, 15.0, 40.0))
        self._skew = self._chance.choice((0.5, 0.8, 1.2))
        world.agenda.after(0.0, self._next)

    def _next(self) -> None:
        world, chance = self._world, self._chance
        if world.agenda.now >= self._until:
            return
        hosts = world.accepting
        if hosts:
            number = min(int(chance.paretovariate(self._skew)), world.shape.models) - 1
            version = chance.choice((None, None, None, None, 1, 2))
            patience_s = chance.choice((1.0, 5.0, 15.0))
            world.ask(chance.choice(hosts), (f"m{number}", version), patience_s)
        world.agenda.after(chance.expovariate(self._rate), self._next)
