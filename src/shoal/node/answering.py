"""Answers what other instances ask for those who look at the mesh, each for itself alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from shoal.codecs.peer import Outcome, PeerCall, PeerReply
from shoal.domain.errors import InvalidRequest, ShoalError
from shoal.node import questions as ask
from shoal.node.asking import REFUSED
from shoal.node.draining import Draining
from shoal.node.own import Own

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(ask.Question)


def _nothing(_model: str | None) -> list[ask.Counted]:
    return []


class Answering:
    """own: what this instance can tell. draining: by which it leaves. counted: gives the counts of
    a model, or of all (None)."""

    def __init__(self, own: Own, draining: Draining) -> None:
        self.counted: Callable[[str | None], list[ask.Counted]] = _nothing
        self._own = own
        self._draining = draining

    async def answer(self, call: PeerCall) -> PeerReply:
        """The reply to a call of kind MANAGEMENT; refusals are replies too."""
        try:
            question = _DECODER.decode(call.body)
        except msgspec.DecodeError as error:
            return _refused(InvalidRequest(
                f"the question is not understood ({error}); is the other instance of a later "
                "release?"))
        try:
            return PeerReply(Outcome.ANSWERED, b"", [_ENCODER.encode(await self._find(question))])
        except ShoalError as error:
            return _refused(error)

    async def _find(self, question: ask.Question) -> object:
        own = self._own
        match question:
            case ask.TellReport():
                return await own.report()
            case ask.TellInstance():
                return own.view()
            case ask.TellModels(names):
                return await own.models(names)
            case ask.TellStates(state):
                return await own.states(state)
            case ask.TellLoaded():
                return own.loaded()
            case ask.TellStory(model):
                return own.facts(model)
            case ask.TellEvents(after, limit, model):
                return own.events(after, limit, model)
            case ask.TellStatistics(model):
                return self.counted(model)
            case ask.AwaitCopy(revision, timeout_s):
                await own.await_copy(revision, timeout_s)
                return None
            case ask.Leave():
                return await self._draining.leave(question)


def _refused(error: ShoalError) -> PeerReply:
    return PeerReply(Outcome.ANSWERED, REFUSED, [_ENCODER.encode(ask.Refusal.of(error))])
