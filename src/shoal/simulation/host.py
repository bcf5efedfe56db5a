"""A shell in miniature around the real core: carries out its commands in made-up time.

What `node.Instance` and its links do, as far as decisions depend on it. Decides nothing but which
of two holders has fewer requests in flight.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from shoal.core.node import Core
from shoal.core.options import Options
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain.events import Miss, served
from shoal.domain.mesh import Member, MemberState, Message
from shoal.domain.model import ModelRecord
from shoal.simulation.around import Around, Clock
from shoal.simulation.loading import Loading
from shoal.simulation.network import Link
from shoal.simulation.registry import News
from shoal.simulation.requests import ByHand, Call, Live, Name, Outcome, Request, Waiting

TICK_S: Final = 1.0
DRAIN_LOOK_S: Final = 0.2
RETRY_S: Final = 0.5
START_S: Final = (0.05, 0.5)


class Host:
    """alive: its process runs. accepting: clients may send requests. here, elsewhere: the hot
    path's tables, by name: a revision in memory here, and one with its holders."""

    def __init__(self, around: Around, member: Member, options: Options, clock: Clock) -> None:
        self.around = around
        self.member = member
        self.options = options
        self.clock = clock
        self.records: dict[str, ModelRecord] = {}
        self.members: dict[str, Member] = {}
        self.core = Core(options, self.records.get)
        self.alive = True
        self.listening = False
        self.accepting = False
        self.here: dict[Name, str] = {}
        self.elsewhere: dict[Name, tuple[str, tuple[str, ...]]] = {}
        self.live: dict[str, Live] = {}
        self.loading: dict[str, do.LoadCopy] = {}
        self.links: dict[str, Link] = {}
        self.in_flight: dict[Link, dict[Call, None]] = {}
        self.incoming: dict[Link, dict[Call, None]] = {}
        self.tickets: dict[int, Waiting] = {}
        self.down: dict[str, None] = {}
        self._forwarded: dict[Name, None] = {}
        self._numbers = 0
        self._events: deque[on.Event] = deque()
        self._busy = False
        self._drain_until: float | None = None

    @property
    def id(self) -> str:
        return self.member.id

    @property
    def now(self) -> float:
        """By its own clock."""
        return self.clock.read(self.around.agenda.now)

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the registry, join the mesh, begin to take requests; wait for the registry."""
        if not self.alive:
            return
        around = self.around
        around.network.ends[self.id] = self
        self.listening = True
        if not around.registry.follow(self, around.lag_s):
            around.agenda.after(RETRY_S, self.start)
            return
        around.registry.put(self, self.member)
        around.agenda.after(around.chance.uniform(*START_S), self._ready)
        around.agenda.after(around.chance.uniform(0, TICK_S), self._tick)

    def _ready(self) -> None:
        """Folders are read, ports are open."""
        if self.alive and not self.draining:
            self.accepting = True
            self._become(MemberState.READY)

    def _become(self, state: MemberState) -> None:
        self.member = msgspec.structs.replace(self.member, state=state)
        self.around.registry.put(self, self.member)
        self._members_changed(self.members, self.core.view.number)

    def drain(self) -> None:
        """As on SIGTERM: hand over what is hot, then go."""
        if self._drain_until is not None or not self.alive:
            return
        self._drain_until = self.around.agenda.now + self.around.drain_s
        self._become(MemberState.DRAINING)
        self.around.agenda.after(2 * DRAIN_LOOK_S, self._drained)

    @property
    def draining(self) -> bool:
        return self._drain_until is not None

    def _drained(self) -> None:
        if not self.alive or self._drain_until is None:
            return
        agenda = self.around.agenda
        done = self.core.holder.hot == 0 and not self.tickets
        if not done and agenda.now < self._drain_until:
            agenda.after(DRAIN_LOOK_S, self._drained)
            return
        self.accepting = False
        self.around.registry.leave(self, self.member)
        agenda.after(1.0, self.crash)  # requests that run are answered, links closed after

    def crash(self, *, silently: bool = False) -> None:
        """End without a word; silently: with its machine."""
        if not self.alive:
            return
        self.alive = self.accepting = self.listening = False
        self.around.registry.unfollow(self)
        self.around.network.ended(self, silently=silently)
        for waiting in [*self.tickets.values(), *(
            request for live in self.live.values() for request in live.calls.values()
        ), *(call.request for calls in self.in_flight.values() for call in calls)]:
            if isinstance(waiting, Request) and waiting.entry == self.id:
                self._end(waiting, Outcome.CUT_OFF)
        self.around.witness.gone(self)

    # --- events in, commands out ----------------------------------------------------------------

    def send(self, event: on.Event) -> None:
        """Let the core decide, and do what it says, before anything else is decided."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        while self._events and self.alive:
            following = self._events.popleft()
            commands = self.core.handle(following, self.now)
            self.around.witness.handled(self, following, commands)
            for command in commands:
                self._obey(command)
        self._events.clear()
        self._busy = False

    def _obey(self, command: do.Command) -> None:
        match command:
            case do.Tell(instance, message):
                link = self.links.get(instance)
                if link is not None:
                    link.tell(link.target.told, self.id, message)
            case do.Route(name, version, revision):
                assert revision in self.live, f"{revision} is routed to before it is loaded"
                self.elsewhere.pop((name, version), None)
                self.here[name, version] = revision
            case do.RouteElsewhere(name, version, revision, holders):
                self.here.pop((name, version), None)
                self.elsewhere[name, version] = (revision, holders)
            case do.Unroute(name, version):
                self.here.pop((name, version), None)
                self.elsewhere.pop((name, version), None)
            case do.Answer(ticket, revision):
                self._answer(self.tickets.pop(ticket), revision)
            case do.AnswerElsewhere(ticket, revision, holders):
                waiting = self.tickets.pop(ticket)
                assert not isinstance(waiting, Call), "what was forwarded is not forwarded again"
                if isinstance(waiting, ByHand):
                    waiting.outcome = Outcome.ANSWERED
                else:
                    waiting.ticket = None
                    self._forward(waiting, revision, holders)
            case do.Refuse():
                self._refuse(self.tickets.pop(command.ticket), command)
            case do.LoadCopy():
                self._load(command)
            case do.UnloadCopy(revision):
                live = self.live[revision]
                assert revision not in self.here.values(), f"{revision} leaves but is routed to"
                live.leaving = True
                self._unload_if_idle(live)
            case do.Wake(after_s):
                self.around.agenda.after(after_s, self.send, on.Ticked())
            case do.Note():
                pass

    # --- requests -------------------------------------------------------------------------------

    def request(self, request: Request) -> None:
        """A client's request came."""
        name = request.name
        revision = self.here.get(name)
        if revision is not None:
            self._run(request, None, revision)
        elif (known := self.elsewhere.get(name)) is not None:
            self._forwarded[name] = None
            self._forward(request, *known)
        elif (record := self.records.get(name[0])) is None:
            self._end(request, Outcome.REFUSED, "MODEL_NOT_FOUND")
        elif served(record, name[1]) is None:
            self._end(request, Outcome.REFUSED, "VERSION_NOT_FOUND")
        else:
            self._ask(request, None)
        if request.outcome is Outcome.OPEN:
            self.around.agenda.at(request.deadline, self._late, request)

    def by_hand(self, order: ByHand) -> None:
        record = self.records.get(order.name[0])
        if record is None or served(record, order.name[1]) is None:
            order.outcome, order.code = Outcome.REFUSED, "NOT_FOUND"
            return
        ticket = self._ticket(order)
        kind = on.LoadAsked if order.load else on.UnloadAsked
        self.send(kind(ticket, *order.name))

    def _ticket(self, waiting: Waiting) -> int:
        self._numbers += 1
        self.tickets[self._numbers] = waiting
        if not isinstance(waiting, ByHand):
            waiting.ticket = self._numbers
        return self._numbers

    def _ask(self, request: Request, miss: Miss | None) -> None:
        request.waited = True
        ticket = self._ticket(request)
        name, version = request.name
        self.send(on.CopyRequested(ticket, name, version, request.forwards, miss))

    def _late(self, request: Request) -> None:
        if request.outcome is not Outcome.OPEN:
            return
        call, ticket = request.call, request.ticket
        self._end(request, Outcome.LATE)
        if call is not None:
            self.in_flight.get(call.link, {}).pop(call, None)
            call.link.send(call.link.target.cancel, call)
        if ticket is not None and self.alive and self.tickets.pop(ticket, None) is not None:
            self.send(on.TicketAbandoned(ticket))

    def _answer(self, waiting: Waiting, revision: str) -> None:
        if isinstance(waiting, ByHand):
            waiting.outcome = Outcome.ANSWERED
            return
        waiting.ticket = None
        if isinstance(waiting, Call):
            self._run(waiting.request, waiting, revision)
        else:
            self._run(waiting, None, revision)

    def _refuse(self, waiting: Waiting, command: do.Refuse) -> None:
        if isinstance(waiting, ByHand):
            waiting.outcome, waiting.code = Outcome.REFUSED, command.code
            return
        waiting.ticket = None
        if isinstance(waiting, Call):
            self._miss(waiting, Miss(
                self.id, waiting.revision, command.code, command.message, command.retry_after_s))
        else:
            waiting.message = command.message
            self._end(waiting, Outcome.REFUSED, command.code)

    def _end(self, request: Request, outcome: Outcome, code: str = "") -> None:
        if request.outcome is Outcome.OPEN:
            request.outcome, request.code = outcome, code
            request.ended_at = self.around.agenda.now
            request.call = None
            self.around.witness.ended(self, request)

    def _run(self, request: Request, call: Call | None, revision: str) -> None:
        live = self.live[revision]
        assert not live.leaving, f"{revision} leaves and is asked"
        self.around.witness.runs(self, request, revision)
        request.runs += 1
        seconds = self.around.chance.uniform(*self.around.service_s)
        live.running += 1
        live.uses += 1
        live.busy_s += seconds
        live.last_used = self.now
        live.calls[request.number] = request
        self.around.agenda.after(seconds, self._ran, request, call, live)

    def _ran(self, request: Request, call: Call | None, live: Live) -> None:
        if not self.alive:
            return
        live.running -= 1
        live.calls.pop(request.number, None)
        self._unload_if_idle(live)
        if call is None:
            request.revision, request.instance = live.revision, self.id
            self._end(request, Outcome.ANSWERED)
        else:
            self._drop_incoming(call)
            call.link.answer(call.link.source.answered, call, live.revision)

    # --- forwarding: here, and as the other side ------------------------------------------------

    def _forward(self, request: Request, revision: str, holders: tuple[str, ...]) -> None:
        instance = self._better(holders)
        link = self.links.get(instance)
        request.forwards += 1
        if link is None:
            self._ask(request, Miss(
                instance, revision, "UNREACHABLE", f"instance {instance!r} is not reachable", 1.0))
            return
        call = request.call = Call(request, revision, link)
        self.in_flight[link][call] = None
        link.send(link.target.called, call)

    def _better(self, holders: tuple[str, ...]) -> str:
        """Of two by requests in flight."""
        if len(holders) > 2:
            holders = tuple(self.around.chance.sample(holders, 2))
        return min(holders, key=self._flying)

    def _flying(self, instance: str) -> int:
        link = self.links.get(instance)
        return len(self.in_flight[link]) if link is not None else 1 << 30

    def answered(self, call: Call, revision: str) -> None:
        """What was forwarded was answered."""
        self.in_flight.get(call.link, {}).pop(call, None)
        request = call.request
        if request.call is call:
            request.revision, request.instance = revision, call.link.target.id
            self._end(request, Outcome.ANSWERED)

    def missed(self, call: Call, miss: Miss) -> None:
        """What was forwarded was not answered."""
        self.in_flight.get(call.link, {}).pop(call, None)
        request = call.request
        if request.call is call:
            request.call = None
            self._ask(request, miss)

    def called(self, call: Call) -> None:
        """Another instance forwards a request."""
        self.incoming.setdefault(call.link, {})[call] = None
        live = self.live.get(call.revision)
        if live is not None and not live.leaving:
            self._run(call.request, call, call.revision)
        else:
            self.send(on.ForwardReceived(self._ticket(call), call.revision))

    def cancel(self, call: Call) -> None:
        """Its answer is not wanted any more."""
        self._drop_incoming(call)
        if call.ticket is not None and self.tickets.pop(call.ticket, None) is not None:
            self.send(on.TicketAbandoned(call.ticket))

    def _miss(self, call: Call, miss: Miss) -> None:
        self._drop_incoming(call)
        call.link.answer(call.link.source.missed, call, miss)

    def _drop_incoming(self, call: Call) -> None:
        self.incoming.get(call.link, {}).pop(call, None)

    # --- links ----------------------------------------------------------------------------------

    def told(self, sender: str, message: Message) -> None:
        if self.alive:
            self.send(on.Told(sender, message))

    def link_up(self, link: Link) -> None:
        self.links[link.target.id] = link
        self.in_flight[link] = {}
        self.down.pop(link.target.id, None)
        self.send(on.PeerUp(link.target.id))

    def link_down(self, link: Link) -> None:
        if not self.alive:
            return
        instance = link.target.id
        if self.links.get(instance) is link:
            del self.links[instance]
            self.unreachable(instance)
        for call in list(self.in_flight.pop(link, ())):
            self.missed(call, Miss(
                instance, call.revision, "UNREACHABLE",
                f"the connection to instance {instance!r} was lost", 1.0, lost=True))
        self.around.network.redial(link)

    def unreachable(self, instance: str) -> None:
        if self.alive and instance not in self.down:
            self.down[instance] = None
            self.send(on.PeerDown(instance))

    def caller_lost(self, link: Link) -> None:
        if self.alive:
            for call in list(self.incoming.pop(link, ())):
                self.cancel(call)

    # --- the registry ---------------------------------------------------------------------------

    def heard(self, news: News) -> None:
        """Changes of declarations and members came."""
        changed = dict(news.records)
        if news.whole:
            changed |= {name: None for name in self.records if name not in news.records}
        for name, record in changed.items():
            if record is None:
                if self.records.pop(name, None) is not None:
                    self.send(on.ModelRemoved(name))
            elif self.records.get(name) != record:
                self.records[name] = record
                self.send(on.ModelDeclared(record))
        if news.members is not None:
            self._members_changed(news.members, news.view)

    def _members_changed(self, members: dict[str, Member], view: int) -> None:
        """This instance is a member as it says itself, whatever the registry has."""
        self.members = {**members, self.id: self.member}
        ordered = tuple(self.members[each] for each in sorted(self.members))
        for gone in [each for each in self.down if each not in self.members]:
            del self.down[gone]
        unlinked = tuple(each for each in self.members if each not in self.links)
        self.send(on.MembersChanged(ordered, view, unlinked))
        self.around.network.reach(self, list(self.members))

    # --- loads ----------------------------------------------------------------------------------

    def _load(self, command: do.LoadCopy) -> None:
        revision = command.revision
        assert revision.id not in self.loading, f"{revision.id} is loaded twice at once"
        assert revision.id not in self.live, f"{revision.id} is loaded beside itself"
        self.around.witness.load_begins(self, command)
        self.loading[revision.id] = command
        loading = self.around.loader.load(self.id, revision, command.device)
        self.around.agenda.after(loading.seconds, self._load_ends, command, loading)

    def _load_ends(self, command: do.LoadCopy, loading: Loading) -> None:
        if not self.alive:
            return
        key = command.revision.id
        del self.loading[key]
        if loading.problem:
            self.send(on.CopyLoadFailed(
                key, loading.code, loading.problem,
                accelerator_bytes=loading.accelerator_bytes))
            return
        self.live[key] = Live(key, loading.size_bytes, command.device, loading.accelerator_bytes,
                              last_used=self.now)
        self.send(on.CopyLoaded(key, loading.size_bytes, loading.seconds,
                                accelerator_bytes=loading.accelerator_bytes))

    def _unload_if_idle(self, live: Live) -> None:
        if live.leaving and not live.running:
            live.running = -1  # once
            self.around.agenda.after(self.around.unload_s, self._unloaded, live)

    def _unloaded(self, live: Live) -> None:
        if self.alive:
            del self.live[live.revision]
            self.send(on.CopyUnloaded(live.revision))

    # --- time -----------------------------------------------------------------------------------

    def _tick(self) -> None:
        """What the shell does once a second."""
        if not self.alive:
            return
        self.around.agenda.after(TICK_S, self._tick)
        self.around.registry.put(self, self.member)
        uses, busy_s = [], 0.0
        for live in self.live.values():
            if live.uses:
                uses.append(on.Use(live.revision, live.uses, live.last_used, live.busy_s))
                busy_s += live.busy_s
                live.uses, live.busy_s = 0, 0.0
        if uses:
            self.send(on.UsesReported(tuple(uses)))
        if self._forwarded:
            self.send(on.ForwardsReported(tuple(self._forwarded)))
            self._forwarded.clear()
        load = busy_s / TICK_S / self.member.processors
        self.send(on.FiguresMeasured(load, len(self.tickets)))
        self.send(on.MemoryMeasured(sum(live.size_bytes for live in self.live.values())))
        self.send(on.Ticked())
        if self.accepting and not self.draining and self.core.may_fill:
            self.send(on.FillOffered(tuple(self.records)))

