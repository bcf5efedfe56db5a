"""Requests that came to this instance: who answers each, here or elsewhere, and what when that
fails.

What homes tell is kept as long as it is used (`hints`), and the shell's tables follow it, so that
only requests without a hint come here. Must not know what is loaded, beyond whether a copy here is
ready.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from shoal.core import admission
from shoal.core.desk import Desk, Refusal, model_of, portions
from shoal.core.holder import GONE, Holder
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain import mesh
from shoal.domain.events import served
from shoal.domain.model import ModelRecord

Name: TypeAlias = tuple[str, int | None]

MOST_ASKED: Final = 2  # times a home is asked a question; then this instance decides itself
LEAST_RETRIES: Final = 200.0  # at once, however few requests: a silent link holds many
MOST_RETRIES: Final = 1_000.0  # that are saved up: what a link that falls silent keeps is many


@dataclass(slots=True)
class Waiting:
    """A ticket. as_of: of the operator's word, by hand. without: instances that failed to answer
    from `revision`. error: how that ended the last time. bounces: how often it waited here in
    vain."""

    name: Name
    by_hand: bool = False
    as_of: int = 0
    revision: str = ""
    without: tuple[str, ...] = ()
    error: Refusal | None = None
    bounces: int = 0


@dataclass(slots=True)
class Ask:
    """A question to a home, asked for tickets of this instance, or for `asker`, whose number for it
    is `number`."""

    question: mesh.Locate | mesh.TakeOut
    home: str
    at: float
    tickets: dict[int, None] = field(default_factory=dict)
    asker: str = ""
    number: int = 0
    times: int = 1


@dataclass(slots=True)
class Hint:
    """here: the shell's table names the copy of this instance. used_at: when it was told, or
    renewed because it was used."""

    revision: str
    holders: tuple[str, ...]
    here: bool
    used_at: float
    used: bool = True


class Entry:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.holder = Holder(desk, self)
        self.waiting: dict[int, Waiting] = {}
        self.hints: dict[Name, Hint] = {}
        self._asks: dict[int, Ask] = {}
        self._asking: dict[Name, int] = {}  # plain questions, which many tickets share
        self._hinted: dict[str, dict[Name, None]] = {}  # names that have a hint, by model
        self._numbers = 0
        self._retries = LEAST_RETRIES
        self._looked_at = -math.inf

    @property
    def open_questions(self) -> int:
        """Those that no home has answered."""
        return len(self._asks)

    # --- requests -------------------------------------------------------------------------------

    def requested(self, event: on.CopyRequested) -> None:
        options = self._desk.options
        waiting = Waiting((event.model, event.version))
        if event.miss is None:
            self._earn(1)
        else:
            refusal = self._missed(event, waiting)
            if refusal is not None:
                self._desk.refuse(event.ticket, refusal)
                return
        refusal = admission.too_many_wait(options, len(self.waiting), event.model)
        if refusal is not None:
            self._desk.refuse(event.ticket, refusal)
            return
        self.waiting[event.ticket] = waiting
        self._look_for(event.ticket, waiting)

    def _missed(self, event: on.CopyRequested, waiting: Waiting) -> Refusal | None:
        """A request was forwarded in vain: why it is not tried again; None: it is."""
        miss = event.miss
        assert miss is not None
        self._forget_holder((event.model, event.version), miss.instance, miss.revision)
        refusal = Refusal(miss.code, miss.message, miss.retry_after_s)
        record = self._desk.records(event.model)
        if miss.lost and record is not None and not record.spec.repeatable:
            return Refusal(
                miss.code, f"{miss.message}; model {event.model!r} is not 'repeatable', so it was "
                "not tried again", miss.retry_after_s)
        gone = miss.code == GONE.code
        if event.attempt >= self._desk.options.max_attempts * (3 if gone else 1):
            return refusal
        if not gone and not was_never_sent(miss):
            if self._retries < 1:
                return Refusal(
                    "OVERLOADED", f"{miss.message}; so many requests fail that this one was not "
                    "tried again", 1.0)
            self._retries -= 1
        waiting.revision, waiting.error = miss.revision, refusal
        # The home is told of what is gone, but that may come later than the question. Who cannot
        # be reached from here may well be for the home.
        waiting.without = () if gone and event.attempt <= 1 else tuple(
            dict.fromkeys([miss.instance, *self._desk.view.unreachable]))
        return None

    def by_hand(self, event: on.LoadAsked) -> None:
        waiting = Waiting((event.model, event.version), by_hand=True, as_of=event.as_of)
        self.waiting[event.ticket] = waiting
        self._look_for(event.ticket, waiting)

    def take_out(self, event: on.UnloadAsked) -> None:
        self.waiting[event.ticket] = Waiting((event.model, event.version), by_hand=True)
        number = self._number()
        question = mesh.TakeOut(event.model, event.version, number, event.as_of)
        self._put(Ask(question, "", self._desk.now, {event.ticket: None}))

    def abandoned(self, ticket: int) -> None:
        self.holder.abandoned(ticket)
        if self.waiting.pop(ticket, None) is not None:
            for ask in self._asks.values():
                ask.tickets.pop(ticket, None)

    def _look_for(self, ticket: int, waiting: Waiting) -> None:
        plain = not waiting.without and not waiting.by_hand
        known = self._asking.get(waiting.name) if plain else None
        if known is not None:
            self._asks[known].tickets[ticket] = None
            return
        number = self._number()
        name, version = waiting.name
        question = mesh.Locate(
            name, version, number, waiting.revision, waiting.without, waiting.by_hand,
            as_of=waiting.as_of)
        if plain:
            self._asking[waiting.name] = number
        self._put(Ask(question, "", self._desk.now, {ticket: None}))

    # --- questions ------------------------------------------------------------------------------

    def relay(self, sender: str, question: mesh.Locate) -> None:
        """Somebody took this instance for the home: ask on its behalf."""
        asked = mesh.Locate(
            question.model, question.version, self._number(), question.revision, question.without,
            question.by_hand, question.relayed or sender, question.as_of)
        self._put(Ask(asked, "", self._desk.now, asker=sender, number=question.ask))

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _put(self, ask: Ask, *, relayed: bool = False) -> None:
        """relayed: by another instance, since answers of the home may not find their way here."""
        model = ask.question.model
        ask.home, ask.at = self._desk.view.home(model), self._desk.now
        self._asks[ask.question.ask] = ask
        to = ask.home
        if relayed and isinstance(ask.question, mesh.Locate) and not ask.asker:
            others = [each for each in self._desk.view.others if each != ask.home]
            to = next(iter(self._desk.view.ranking(model, others, ready=False)), ask.home)
        self._desk.tell(to, ask.question)

    def _put_again(self, ask: Ask) -> None:
        """Its home did not answer, or is the home no longer."""
        ask.times += 1
        if ask.times <= MOST_ASKED:
            self._put(ask, relayed=ask.times % 2 == 0)
            return
        if isinstance(ask.question, mesh.Locate) and not ask.asker:
            # Two homes for a while cost at most a needless copy.
            ask.home, ask.at = self._desk.me, self._desk.now
            self._desk.tell(ask.home, msgspec.structs.replace(ask.question, relayed=ask.home))
            return
        self.not_located(mesh.NotLocated(
            ask.question.ask, "UNREACHABLE",
            f"instance {ask.home!r}, which decides about model {ask.question.model!r}, does not "
            "answer; try again later", 1.0))

    def _take(self, number: int) -> Ask | None:
        ask = self._asks.pop(number, None)
        if ask is not None:
            name = (ask.question.model, ask.question.version)
            if self._asking.get(name) == number:
                del self._asking[name]
        return ask

    def located(self, answer: mesh.Located) -> None:
        ask = self._take(answer.ask)
        if ask is None:
            return
        if ask.asker:
            self._desk.tell(ask.asker, mesh.Located(
                ask.number, answer.revision, answer.holders, answer.ready))
            return
        if answer.ready:
            self._learn((ask.question.model, ask.question.version), answer.revision, answer.holders)
        for ticket in ask.tickets:
            self._send(ticket, answer)

    def _send(self, ticket: int, answer: mesh.Located) -> None:
        waiting = self.waiting[ticket]
        waiting.revision = answer.revision
        if self._desk.me in answer.holders:
            refusal = self.holder.wait(ticket, answer.revision)
            if refusal is not None:
                if refusal is GONE:
                    self.holder.correct_home(answer.revision)
                self.bounced(ticket, refusal)
            elif ticket not in self.holder.waiting:
                del self.waiting[ticket]
            return
        del self.waiting[ticket]
        self._desk.out.append(do.AnswerElsewhere(
            ticket, answer.revision, answer.holders, answer.ready))

    def not_located(self, answer: mesh.NotLocated) -> None:
        ask = self._take(answer.ask)
        if ask is None:
            return
        if ask.asker:
            self._desk.tell(ask.asker, mesh.NotLocated(
                ask.number, answer.code, answer.message, answer.retry_after_s))
            return
        said = Refusal(answer.code, answer.message, answer.retry_after_s) if answer.code else None
        for ticket in ask.tickets:
            waiting = self.waiting.pop(ticket)
            self._desk.refuse(ticket, said or waiting.error or GONE)

    def taken_out(self, answer: mesh.TakenOut) -> None:
        ask = self._take(answer.ask)
        for ticket in ask.tickets if ask is not None else ():
            del self.waiting[ticket]
            self._desk.out.append(do.Answer(ticket, ""))

    def bounced(self, ticket: int, refusal: Refusal) -> None:
        """It waited in vain for a copy of this instance: the home knows by now."""
        waiting = self.waiting[ticket]
        waiting.bounces += 1
        waiting.error = refusal
        if waiting.bounces > 3 * self._desk.options.max_attempts:
            del self.waiting[ticket]
            self._desk.refuse(ticket, refusal)
            return
        waiting.by_hand &= refusal is not GONE  # whoever takes it out after that is not overruled
        # A home out of reach may have let this instance load it, which cannot hear of that.
        unreachable = [each for each in waiting.without if each in self._desk.view.unreachable]
        waiting.without = () if refusal is GONE and not unreachable else (
            *unreachable, self._desk.me)
        self._look_for(ticket, waiting)

    def answered(self, ticket: int) -> None:
        """The holder answered it."""
        self.waiting.pop(ticket, None)

    # --- hints ----------------------------------------------------------------------------------

    def holders(self, message: mesh.Holders) -> None:
        name = (message.model, message.version)
        if message.holders:
            self._learn(name, message.revision, message.holders)
        else:
            self._forget(name)
        for ticket, revision in list(self.holder.waiting.items()):
            waiting = self.waiting.get(ticket)
            if waiting is not None and waiting.name == name and revision != message.revision:
                self.holder.withdraw(ticket)
                self.bounced(ticket, GONE)

    def _learn(self, name: Name, revision: str, holders: tuple[str, ...]) -> None:
        record = self._desk.records(name[0])
        if record is None or (name[1] is not None and served(record, name[1]) is None):
            return
        here = self._desk.me in holders and self.holder.is_ready(revision)
        if not here:
            holders = tuple([each for each in holders if each != self._desk.me])
        known = self.hints.get(name)
        if not holders:
            self._forget(name)
        elif known is None or (known.revision, known.here) != (revision, here) or (
            not here and known.holders != holders
        ):
            self._note_hint(name, Hint(revision, holders, here, self._desk.now))
            if here:
                self._desk.out.append(do.Route(*name, revision))
            else:
                self._desk.out.append(do.RouteElsewhere(*name, revision, holders))
        else:
            known.holders, known.used_at = holders, self._desk.now

    def _note_hint(self, name: Name, hint: Hint) -> None:
        self._unlist(name)
        self.hints[name] = hint
        self._hinted.setdefault(name[0], {})[name] = None

    def _unlist(self, name: Name) -> None:
        if self.hints.pop(name, None) is not None:
            names = self._hinted[name[0]]
            del names[name]
            if not names:
                del self._hinted[name[0]]

    def _forget(self, name: Name) -> None:
        if name in self.hints:
            self._unlist(name)
            self._desk.out.append(do.Unroute(*name))

    def _forget_holder(self, name: Name, instance: str, revision: str) -> None:
        hint = self.hints.get(name)
        if hint is not None and hint.revision == revision and instance in hint.holders:
            self._learn(
                name, revision, tuple([each for each in hint.holders if each != instance]))

    def copy_leaves(self, revision: str) -> None:
        """A copy of this instance answers no new requests."""
        for name in list(self._hinted.get(model_of(revision), ())):
            self._forget_holder(name, self._desk.me, revision)

    def _earn(self, requests: int) -> None:
        """Retries are a share of all requests that did not find their copy here."""
        earned = requests * self._desk.options.retry_share
        self._retries = min(self._retries + earned, MOST_RETRIES)

    def forwards(self, event: on.ForwardsReported) -> None:
        self._earn(event.count)
        for name in event.names:
            hint = self.hints.get(name)
            if hint is not None:
                hint.used = True

    # --- declarations ---------------------------------------------------------------------------

    def declared(self, record: ModelRecord) -> None:
        for name in self._names_of(record.name):
            if served(record, name[1]) is not None:
                continue
            self._forget(name)
            what = "" if name[1] is None else f" version {name[1]}"
            self._refuse_all(name, Refusal(
                "VERSION_NOT_FOUND", f"model {record.name!r}{what} is no longer served"))

    def removed(self, model: str) -> None:
        for name in self._names_of(model):
            self._forget(name)
            self._refuse_all(name, Refusal(
                "MODEL_NOT_FOUND", f"model {model!r} was unregistered"))

    def _names_of(self, model: str) -> list[Name]:
        found: dict[Name, None] = dict(self._hinted.get(model, {}))
        found |= {each.name: None for each in self.waiting.values() if each.name[0] == model}
        return list(found)

    def _refuse_all(self, name: Name, refusal: Refusal) -> None:
        for ticket, waiting in list(self.waiting.items()):
            if waiting.name == name:
                self.holder.withdraw(ticket)
                self.abandoned(ticket)
                self._desk.refuse(ticket, refusal)

    # --- the mesh, and time ---------------------------------------------------------------------

    def view_changed(self) -> None:
        """Ask the new homes, and tell them what is of interest here."""
        view = self._desk.view
        for ask in list(self._asks.values()):
            if view.home(ask.question.model) != ask.home:
                self._put(ask)
        self._renew(list(self.hints))
        for name, hint in list(self.hints.items()):
            gone = [each for each in hint.holders if not view.is_reachable(each)]
            if gone:
                left = tuple([each for each in hint.holders if each not in gone])
                self._learn(name, hint.revision, left)

    def reached_by(self, instance: str) -> None:
        """Its messages come here (again): what it answered before may be lost."""
        for ask in list(self._asks.values()):
            if ask.home == instance:
                self._put(ask)

    def ticked(self) -> None:
        now, options = self._desk.now, self._desk.options
        for ask in list(self._asks.values()):
            if ask.home != self._desk.me and now - ask.at > options.ask_timeout_s:
                self._put_again(ask)
        if self._desk.view.alone:
            return
        if now - self._looked_at < options.hint_ttl_s / 8:
            return  # there may be very many
        self._looked_at = now
        renewed = []
        for name, hint in list(self.hints.items()):
            if now - hint.used_at <= options.hint_ttl_s:
                continue
            if hint.used or hint.here:
                hint.used, hint.used_at = False, now
                renewed.append(name)
            else:
                self._forget(name)
        self._renew(renewed)

    def _renew(self, names: list[Name]) -> None:
        by_home: dict[str, list[Name]] = {}
        for name in names:
            by_home.setdefault(self._desk.view.home(name[0]), []).append(name)
        for home, those in by_home.items():
            for part in portions(those):
                self._desk.tell(home, mesh.Interest(part))


def was_never_sent(miss: on.Miss) -> bool:
    """It could not be reached from here, though maybe from elsewhere: nobody got more to do."""
    return miss.code == "UNREACHABLE" and not miss.lost
