"""What must become true once nothing fails any more, and the mesh had time: asks everybody.

Breaking it raises Broken. Must not know which faults there were.
"""

from __future__ import annotations

from typing import Final

from shoal.core.copies import CopyState
from shoal.core.plays import HoldingState
from shoal.domain.events import served
from shoal.domain.model import ModelRecord, Revision
from shoal.simulation.checks import Broken
from shoal.simulation.host import Host
from shoal.simulation.requests import Outcome, Request
from shoal.simulation.world import World

# Refusals that are true of a model whose newest revision does not load, or fits nowhere.
FAILING: Final = ("LOAD_FAILED", "TOO_LARGE")
# The latter where it was tried elsewhere, too, and too many others were.
NO_ROOM: Final = ("NO_ROOM", "ACCELERATOR_FULL", "OVERLOADED")
PATIENCE_S: Final = 25.0
PAUSE_S: Final = 0.1
MOST_ASKED: Final = 10


def check_healed(world: World) -> None:
    """The faults are over, and time has passed since."""
    world.bury()
    hosts = list(world.hosts.values())
    _check_views(world, hosts)
    _check_registry(world, hosts)
    asked = _ask_everything(world, hosts)
    for request, record in asked:
        _check_answer(world, request, record)
    _check_nothing_waits(hosts)
    _check_holdings(world, hosts)
    _check_wishes(world, hosts)
    _check_unloading(world, hosts)
    if world.safety.open:
        raise Broken(f"requests wait for ever: {_some(world.safety.open)}")


def _check_views(world: World, hosts: list[Host]) -> None:
    """All agree who is there, who is reachable, and whose the models are."""
    ids = sorted(host.id for host in hosts)
    for host in hosts:
        if sorted(host.core.view.members) != ids:
            raise Broken(f"{host.id} sees {sorted(host.core.view.members)}; there are {ids}")
        if sorted(host.core.view.ready) != ids:
            raise Broken(f"{host.id} reaches {sorted(host.core.view.ready)}; there are {ids}")
    for name in world.records:
        homes = {host.id: host.core.view.home(name) for host in hosts}
        if len(set(homes.values())) > 1:
            raise Broken(f"{name} has more than one home: {homes}")


def _check_registry(world: World, hosts: list[Host]) -> None:
    for host in hosts:
        if host.records != world.records:
            raise Broken(f"{host.id} does not know what is declared")


def _ask_everything(world: World, hosts: list[Host]) -> list[tuple[Request, ModelRecord]]:
    """Some models, each through all instances at once (or four of them); one after the other."""
    names = list(world.records)
    asked = []
    for number, name in enumerate(world.chance.sample(names, min(len(names), MOST_ASKED))):
        through = [hosts[(number + each) % len(hosts)] for each in range(min(len(hosts), 4))]
        requests = [world.ask(host, (name, None), PATIENCE_S) for host in through]
        until = world.agenda.now + PATIENCE_S + PAUSE_S
        while world.agenda.now < until and any(
                each.outcome is Outcome.OPEN for each in requests):
            world.agenda.run_until(world.agenda.now + PAUSE_S)
        asked += [(request, world.records[name]) for request in requests]
    return asked


def _check_answer(world: World, request: Request, record: ModelRecord) -> None:
    name = record.name
    loadable = [each for each in record.revisions
                if each.id not in world.loader.broken and _fits(world, each)]
    told = f"{name} through {request.entry}: {request.outcome.value} {request.code}"
    if request.outcome is Outcome.ANSWERED:
        newest = loadable[-1].id if loadable else ""
        broken_newest = not loadable or loadable[-1] is not record.revisions[-1]
        if request.revision != newest and not broken_newest and _fits_beside(world, loadable[-1]):
            raise Broken(f"{told} by {request.revision}; it is declared as {newest}")
    elif request.outcome is not Outcome.REFUSED:
        raise Broken(f"{told} after {PATIENCE_S} s")
    elif request.code == "UNLOADED":
        if name not in world.unloaded:
            raise Broken(f"{told}, but it was not taken out of service")
    elif request.code in FAILING:
        if loadable and loadable[-1] is record.revisions[-1]:
            raise Broken(f"{told}, but it can be loaded")
    elif request.code in NO_ROOM:
        failing = not loadable or loadable[-1] is not record.revisions[-1]
        if not failing and _fits_beside(world, loadable[-1]):
            raise Broken(f"{told}, but there is room: {request.message}")
    else:
        raise Broken(f"{told}: {request.message}")


def _fits_beside(world: World, revision: Revision) -> bool:
    """Is there an instance that has room for it?"""
    return any(_has_room(world, host, revision) for host in world.accepting)


def _has_room(world: World, host: Host, revision: Revision) -> bool:
    """Beside what may not leave, and plenty: who has just enough may not be found."""
    need = 2 * world.size_of(revision)
    staying = [copy for copy in host.core.cache.copies.values() if copy.is_protected]
    if sum(copy.size_bytes for copy in staying) + need > host.options.budget_bytes:
        return False
    if host.core.cache.kind(revision) is None:
        return _may_run_on(host, revision)
    return any(
        sum(copy.accelerator_bytes for copy in staying if copy.device == pool.name) + need
        <= pool.budget_bytes for pool in host.options.pools)


def _may_run_on(host: Host, revision: Revision) -> bool:
    return revision.accelerator is None or revision.accelerator_optional or bool(
        host.options.pools)


def _fits(world: World, revision: Revision) -> bool:
    return any(_fits_into(world, host, revision, 1) for host in world.hosts.values())


def _fits_into(world: World, host: Host, revision: Revision, times: int) -> bool:
    need = times * world.size_of(revision)
    if need > host.options.budget_bytes:
        return False
    return revision.accelerator is None or revision.accelerator_optional or any(
        need <= pool.budget_bytes for pool in host.options.pools)


def _check_nothing_waits(hosts: list[Host]) -> None:
    for host in hosts:
        core = host.core
        for what, count in (
            ("tickets", len(host.tickets)), ("requests", len(core.entry.waiting)),
            ("requests for copies", len(core.holder.waiting)),
            ("questions", core.entry.open_questions),
            ("parked questions", len(core.home.roll.parked)),
        ):
            if count:
                raise Broken(f"{count} {what} wait for ever on {host.id}")
        stuck = [copy for copy in core.cache.copies.values()
                 if copy.state is CopyState.UNLOADING and copy.revision.id not in host.live]
        if stuck:
            raise Broken(f"{host.id} waits for what has left: {_some(stuck)}")


def _check_holdings(world: World, hosts: list[Host]) -> None:
    """Homes know exactly what there is."""
    for host in hosts:
        there = {key for key, live in host.live.items() if not live.leaving}
        known = {copy.revision.id for copy in host.core.cache.copies.values()
                 if copy.state is CopyState.READY}
        if there != known:
            raise Broken(f"{host.id} has {sorted(there)} in memory and knows {sorted(known)}")
        for key in sorted(there):
            model = key.rpartition("@")[0]
            home = world.hosts[host.core.view.home(model)]
            play = home.core.models.get(model)
            holding = play.held_by(key).get(host.id) if play is not None else None
            if holding is None:
                raise Broken(f"{host.id} holds {key}, and its home {home.id} does not know")
            if model not in world.records:
                raise Broken(f"{host.id} holds {key}, which was removed")
    for home in hosts:
        for model, play in home.core.models.items():
            if home.core.view.home(model) != home.id and play.holdings:
                raise Broken(f"{home.id} decides about {model}, whose home it is not")
            for key, copies in play.holdings.items():
                for instance, holding in copies.items():
                    if instance not in world.hosts:
                        raise Broken(f"{home.id} takes {instance}, which is gone, for a holder")
                    ready = holding.state is HoldingState.READY
                    if ready and holding.released:
                        raise Broken(f"{home.id} let go of {key} on {instance}, which has it")
                    if ready and key not in world.hosts[instance].live:
                        raise Broken(f"{home.id} takes {instance} for a holder of {key}")


def _check_wishes(world: World, hosts: list[Host]) -> None:
    """Pinned models, and those with a least number of copies, have them."""
    for name, record in world.records.items():
        least = max(int(record.spec.pin), record.spec.min_copies)
        current = served(record, None)
        if not least or current is None or current.id in world.loader.broken:
            continue
        if name in world.unloaded or not _fits(world, current):
            continue
        able = [host for host in hosts if _fits_into(world, host, current, 2)]
        copies = sum(current.id in host.live for host in hosts)
        if copies < min(least, len(able)):
            raise Broken(f"{name} has {copies} copies of {least}")


def _check_unloading(world: World, hosts: list[Host]) -> None:
    """What is taken out of service leaves all memory, and stays out until it is loaded by hand."""
    names = [name for name in world.records if name not in world.unloaded and world.may_load(name)]
    for name in names[:2]:
        order = world.order(hosts[0], (name, None), load=False)
        world.agenda.run_until(world.agenda.now + 2.0)
        if order.outcome is not Outcome.ANSWERED:
            raise Broken(f"{name} is not taken out of service: {order.outcome.value} {order.code}")
        for host in hosts:
            if any(key.startswith(f"{name}@") for key in (*host.live, *host.loading)):
                raise Broken(f"{host.id} holds {name}, which is out of service")
            refused = world.ask(host, (name, None), PATIENCE_S)
            world.agenda.run_until(world.agenda.now + 0.2)
            if refused.code != "UNLOADED":
                raise Broken(
                    f"{name} is out of service, and {host.id} says {refused.outcome.value} "
                    f"{refused.code}")


def _some(those: object) -> str:
    text = str(list(those)) if isinstance(those, dict) else str(those)
    return text[:300]
