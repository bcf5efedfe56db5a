"""What goes wrong, and when, as one seed decides: everything that the parts of a world can do.

Draws from kinds that a seed leaves in or out, so that some worlds see one kind of fault alone and
others all of them at once. Must not know what is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from shoal.simulation.host import Host
from shoal.simulation.world import World

SHARE_OF_KINDS: Final = 0.5  # that a seed leaves in


class Faults:
    """Until `until`, every `every_s` seconds on the average. happened: each, with its time."""

    def __init__(self, world: World, seed: int, until: float, every_s: float) -> None:
        self._world = world
        self._chance = Random(f"faults {seed}")
        self._until = until
        self._every_s = every_s
        self._joined = world.shape.instances
        self.happened: list[str] = []
        kinds: tuple[Callable[[], str], ...] = (
            self._break_links, self._part, self._part_from_all, self._crash, self._crash_silently,
            self._drain, self._join, self._registry_down, self._registry_out_of_reach, self._lag,
            self._compact, self._loads_fail, self._declare, self._declare_broken, self._remove,
            self._out_of_service, self._in_service,
        )
        self._kinds = [each for each in kinds if self._chance.random() < SHARE_OF_KINDS]
        if self._kinds:
            world.agenda.after(self._pause_s(), self._next)

    def _pause_s(self) -> float:
        return self._chance.expovariate(1 / self._every_s)

    def _next(self) -> None:
        world = self._world
        if world.agenda.now >= self._until:
            return
        world.bury()
        what = self._chance.choice(self._kinds)()
        if what:
            self.happened.append(f"{world.agenda.now:7.3f} {what}")
        world.agenda.after(self._pause_s(), self._next)

    def heal(self) -> None:
        """Nothing fails any more; who is down comes back, but for one."""
        world = self._world
        if world.registry.down:
            world.registry.set_down(False)
        for host in world.hosts.values():
            watch = world.registry.watch_of(host)
            if watch is not None:
                watch.cut = False
                watch.lag_s = world.shape.lag_s
        world.registry.reconnect()
        world.loader.failing.clear()

    # --- between instances ----------------------------------------------------------------------

    def _two(self) -> tuple[str, str] | None:
        those = list(self._world.hosts)
        if len(those) < 2:
            return None
        one, other = self._chance.sample(those, 2)
        return one, other

    def _seconds(self, most: float) -> float:
        """No longer than the faults last."""
        left = max(self._until - self._world.agenda.now, 0.0)
        return min(self._chance.uniform(0.1, most), left)

    def _break_links(self) -> str:
        two = self._two()
        if two is None:
            return ""
        self._world.network.break_links(*two)
        return f"links between {two[0]} and {two[1]} break"

    def _part(self) -> str:
        two, seconds = self._two(), self._seconds(6.0)
        if two is None:
            return ""
        self._world.network.part(*two, seconds)
        return f"{two[0]} and {two[1]} do not reach each other for {seconds:.1f} s"

    def _part_from_all(self) -> str:
        seconds, those = self._seconds(6.0), list(self._world.hosts)
        one = self._chance.choice(those)
        for other in those:
            if other != one:
                self._world.network.part(one, other, seconds)
        return f"{one} is reached by nobody for {seconds:.1f} s"

    # --- instances ------------------------------------------------------------------------------

    def _staying(self) -> list[Host]:
        return [host for host in self._world.accepting if not host.draining]

    def _crash(self, *, silently: bool = False) -> str:
        world = self._world
        instance = self._chance.choice(list(world.hosts))
        if not any(host.id != instance for host in self._staying()):
            return ""
        world.end(instance, silently=silently)
        back_s = self._chance.choice((0.05, 1.0, 3.0, 8.0))
        if self._chance.random() < 0.8:
            world.agenda.after(back_s, self._come_back, instance)
            return f"{instance} ends{' silently' if silently else ''}, back in {back_s} s"
        return f"{instance} ends{' silently' if silently else ''} for ever"

    def _crash_silently(self) -> str:
        return self._crash(silently=True)

    def _come_back(self, instance: str) -> None:
        self._world.bury()
        if instance not in self._world.hosts:
            self._world.join(instance)

    def _drain(self) -> str:
        those = self._staying()
        if len(those) < 2:
            return ""
        host = self._chance.choice(those)
        host.drain()
        if self._chance.random() < 0.7:
            self._join()
        return f"{host.id} drains"

    def _join(self) -> str:
        if len(self._world.hosts) > self._world.shape.instances:
            return ""
        instance = f"i{self._joined}"
        self._joined += 1
        self._world.join(instance)
        return f"{instance} joins"

    # --- the registry ---------------------------------------------------------------------------

    def _registry_down(self) -> str:
        registry, seconds = self._world.registry, self._seconds(8.0)
        if registry.down:
            return ""
        registry.set_down(True)
        self._world.agenda.after(seconds, self._registry_up)
        return f"the registry is down for {seconds:.1f} s"

    def _registry_up(self) -> None:
        if self._world.registry.down:
            self._world.registry.set_down(False)

    def _registry_out_of_reach(self) -> str:
        world, seconds = self._world, self._seconds(8.0)
        host = self._chance.choice(list(world.hosts.values()))
        watch = world.registry.watch_of(host)
        if watch is None or watch.cut:
            return ""
        watch.cut = True
        watch.compacted = self._chance.random() < 0.3

        def mend() -> None:
            watch.cut = False
            world.registry.reconnect()

        world.agenda.after(seconds, mend)
        return f"{host.id} does not reach the registry for {seconds:.1f} s"

    def _lag(self) -> str:
        host = self._chance.choice(list(self._world.hosts.values()))
        watch = self._world.registry.watch_of(host)
        if watch is None:
            return ""
        watch.lag_s = self._chance.choice((0.01, 0.5, 3.0))
        return f"{host.id} hears of changes up to {watch.lag_s} s late"

    def _compact(self) -> str:
        host = self._chance.choice(list(self._world.hosts.values()))
        watch = self._world.registry.watch_of(host)
        if watch is None:
            return ""
        watch.compacted = True
        return f"changes that {host.id} has not heard of are forgotten"

    # --- models ---------------------------------------------------------------------------------

    def _loads_fail(self) -> str:
        world, seconds = self._world, self._seconds(5.0)
        where = self._chance.choice(["", *world.hosts])
        share = self._chance.choice((0.3, 1.0))
        world.loader.failing[where] = share
        world.agenda.after(seconds, self._loads_succeed, where)
        return f"{share:.0%} of the loads on {where or 'all'} fail for {seconds:.1f} s"

    def _loads_succeed(self, where: str) -> None:
        self._world.loader.failing.pop(where, None)

    def _name(self) -> str | None:
        names = list(self._world.records)
        return self._chance.choice(names) if names else None

    def _declare(self, *, broken: bool = False) -> str:
        gone = [f"m{each}" for each in range(self._world.shape.models)
                if f"m{each}" not in self._world.records]
        name = self._chance.choice(gone) if gone and self._chance.random() < 0.5 else self._name()
        if name is None:
            return ""
        record = self._world.new_record(name, broken=broken)
        if not self._world.declare(record):
            return ""
        return f"{name} is declared anew as {', '.join(each.id for each in record.revisions)}" + (
            ", broken" if broken else "")

    def _declare_broken(self) -> str:
        return self._declare(broken=True)

    def _remove(self) -> str:
        name = self._name()
        if name is None or len(self._world.records) < 3 or not self._world.remove(name):
            return ""
        return f"{name} is removed"

    def _out_of_service(self) -> str:
        name, hosts = self._name(), self._world.accepting
        if name is None or not hosts:
            return ""
        host = self._chance.choice(hosts)
        self._world.order(host, (name, None), load=False)
        return f"{name} is taken out of service through {host.id}"

    def _in_service(self) -> str:
        name, hosts = self._name(), self._world.accepting
        if name is None or not hosts:
            return ""
        host = self._chance.choice(hosts)
        self._world.order(host, (name, None), load=True)
        return f"{name} is loaded by hand through {host.id}"
