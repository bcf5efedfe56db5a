"""Links between instances in made-up time: in order and late, and lost as a whole when they break.

As in `dataplane.peer`: each instance dials every other one, its requests and messages go out on the
link it dialled, and answers come back on it. A partition drops nothing at once: what is sent waits,
and is lost if the partition is noticed before it ends. Must not know what is said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from shoal.simulation.agenda import Agenda

if TYPE_CHECKING:
    from shoal.simulation.host import Host

SILENCE_S: Final = 3.0  # after which a link without a sign of life is cut
REDIAL_LEAST_S: Final = 0.05
REDIAL_MOST_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Conditions:
    """delay_s: of a frame, least and most. duplicates: share of the messages that arrive twice."""

    delay_s: tuple[float, float] = (0.0002, 0.003)
    duplicates: float = 0.0


class _Pipe:
    """One direction of a link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: deque[tuple[float, Callable[..., None], tuple[object, ...]]] = deque()

    def put(self, act: Callable[..., None], *given: object) -> None:
        network = self._link.network
        due = network.agenda.now + network.delay_s()
        if self._waiting and self._waiting[-1][0] > due:
            due = self._waiting[-1][0]
        self._waiting.append((due, act, given))
        if len(self._waiting) == 1:
            network.agenda.at(due, self._arrive)

    def _arrive(self) -> None:
        link, agenda = self._link, self._link.network.agenda
        if not link.open:
            self._waiting.clear()
            return
        healed_at = link.network.healed_at(link.source.id, link.target.id)
        if healed_at > agenda.now:
            agenda.at(healed_at, self._arrive)
            return
        while self._waiting and self._waiting[0][0] <= agenda.now:
            _, act, given = self._waiting.popleft()
            act(*given)
        if self._waiting:
            agenda.at(self._waiting[0][0], self._arrive)


class Link:
    """From the instance that dialled to the one that answers. open: frames arrive."""

    def __init__(self, network: Network, source: Host, target: Host) -> None:
        self.network = network
        self.source = source
        self.target = target
        self.open = True
        self._out, self._back = _Pipe(self), _Pipe(self)

    def send(self, act: Callable[..., None], *given: object) -> None:
        """Have `act(*given)` called where the target is."""
        if self.open:
            self._out.put(act, *given)

    def tell(self, act: Callable[..., None], *given: object) -> None:
        """As `send`, for messages, which may arrive twice."""
        if self.open:
            self._out.put(act, *given)
            network = self.network
            duplicates = network.conditions.duplicates
            if duplicates and network.chance.random() < duplicates:
                self._out.put(act, *given)

    def answer(self, act: Callable[..., None], *given: object) -> None:
        """Have `act(*given)` called where the source is."""
        if self.open:
            self._back.put(act, *given)

    def cut(self, source_notices_s: float, target_notices_s: float) -> None:
        """What is on its way is lost; both ends notice, each in its time."""
        if not self.open:
            return
        self.open = False
        agenda = self.network.agenda
        agenda.after(source_notices_s, self.source.link_down, self)
        agenda.after(target_notices_s, self.target.caller_lost, self)


@dataclass(slots=True)
class _Dialling:
    source: Host
    instance: str
    wait_s: float = REDIAL_LEAST_S
    told: bool = False
    stopped: bool = False
    link: Link | None = None


class Network:
    """ends: the instances that run, by id."""

    def __init__(self, agenda: Agenda, chance: Random, conditions: Conditions) -> None:
        self.agenda = agenda
        self.chance = chance
        self.conditions = conditions
        self.ends: dict[str, Host] = {}
        self._dialling: dict[tuple[Host, str], _Dialling] = {}
        self._healed_at: dict[tuple[str, str], float] = {}

    def delay_s(self) -> float:
        least, most = self.conditions.delay_s
        return least + (most - least) * self.chance.random()

    def healed_at(self, one: str, other: str) -> float:
        """When these reach each other again; in the past where they do."""
        if not self._healed_at:
            return 0.0
        return self._healed_at.get((one, other) if one < other else (other, one), 0.0)

    # --- who reaches for whom -------------------------------------------------------------------

    def reach(self, source: Host, instances: list[str]) -> None:
        """Keep a link from `source` to each of these, and to no other."""
        wanted = dict.fromkeys(each for each in instances if each != source.id)
        for key in [key for key in self._dialling if key[0] is source and key[1] not in wanted]:
            dialling = self._dialling.pop(key)
            dialling.stopped = True
            if dialling.link is not None and dialling.link.open:
                dialling.link.cut(0.0, self.delay_s())
        for each in wanted:
            if (source, each) not in self._dialling:
                dialling = self._dialling[source, each] = _Dialling(source, each)
                self.agenda.after(self.delay_s(), self._dial, dialling)

    def _dial(self, dialling: _Dialling) -> None:
        source, target = dialling.source, self.ends.get(dialling.instance)
        if dialling.stopped or dialling.link is not None or not source.alive:
            return
        reaches = self.healed_at(source.id, dialling.instance) <= self.agenda.now
        if target is not None and target.listening and reaches:
            dialling.told, dialling.wait_s = False, REDIAL_LEAST_S
            dialling.link = Link(self, source, target)
            source.link_up(dialling.link)
            return
        if not dialling.told:
            dialling.told = True
            source.unreachable(dialling.instance)
        self._redial(dialling)

    def redial(self, link: Link) -> None:
        """A link that was up was lost."""
        dialling = self._dialling.get((link.source, link.target.id))
        if dialling is not None and dialling.link is link:
            dialling.link = None
            self._redial(dialling)

    def _redial(self, dialling: _Dialling) -> None:
        self.agenda.after(dialling.wait_s * self.chance.uniform(0.75, 1.25), self._dial, dialling)
        dialling.wait_s = min(dialling.wait_s * 2, REDIAL_MOST_S)

    # --- what goes wrong ------------------------------------------------------------------------

    @property
    def links(self) -> list[Link]:
        return [each.link for each in self._dialling.values()
                if each.link is not None and each.link.open]

    def break_links(self, one: str, other: str) -> None:
        """Between these, both ways; both ends notice soon, not at once."""
        for link in self.links:
            if {link.source.id, link.target.id} == {one, other}:
                link.cut(self.chance.uniform(0, 0.2), self.chance.uniform(0, 0.2))

    def part(self, one: str, other: str, seconds: float) -> None:
        """Nothing passes between these for so long."""
        key = (one, other) if one < other else (other, one)
        self._healed_at[key] = max(self._healed_at.get(key, 0.0), self.agenda.now + seconds)
        if seconds >= SILENCE_S:
            for link in self.links:
                if {link.source.id, link.target.id} == {one, other}:
                    self.agenda.after(
                        SILENCE_S + self.chance.uniform(0, 0.5), self._notice, link, key)

    def _notice(self, link: Link, key: tuple[str, str]) -> None:
        if self._healed_at[key] > self.agenda.now:
            link.cut(0.0, self.chance.uniform(0, 0.5))

    def ended(self, end: Host, *, silently: bool) -> None:
        """A process is gone; silently: with its machine, so that nobody is told."""
        if self.ends.get(end.id) is end:
            del self.ends[end.id]
        least = SILENCE_S if silently else 0.0
        for key, dialling in list(self._dialling.items()):
            link, mine = dialling.link, key[0] is end
            if mine:
                del self._dialling[key]
                dialling.stopped = True
            if link is not None and (mine or link.target is end):
                link.cut(least + self.chance.uniform(0, 0.3), least + self.chance.uniform(0, 0.3))
