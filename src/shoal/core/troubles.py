"""Loads that did not come to pass: who is tried next, and when all of it waits.

Another instance is tried at once, as its files, its libraries or its room may differ; once all have
failed the revision waits, and an older one answers where there is one. Must not know who asked.
"""

from __future__ import annotations

from typing import Final

from shoal.core.board import Board, Declined
from shoal.core.copies import Urgency
from shoal.core.desk import model_of
from shoal.core.failures import MOST_DEATHS, Failure
from shoal.core.plays import Play
from shoal.core.revisions import Revisions
from shoal.domain import mesh
from shoal.domain.model import Revision
from shoal.domain.reasons import Reason

DECLINED_S: Final = 0.1  # for which who declined to load is not asked again, whoever asks


class Troubles:
    def __init__(self, board: Board, revisions: Revisions) -> None:
        self._desk = board.desk
        self._board = board
        self._revisions = revisions

    def failed(self, sender: str, message: mesh.Failed) -> None:
        """A granted load did not come to pass."""
        name = model_of(message.revision)
        play = self._board.plays.get(name)
        if play is None:
            return
        holding = play.forget(message.revision, sender)
        if holding is not None and play.refers_to(message.revision):
            revision = play.revision(message.revision)
            self._board.learn(revision, message.size_bytes, message.accelerator_bytes)
            if message.declined:
                self._declined(play, sender, message, holding.urgency)
            elif message.deadly:
                self._put_off(play, message.revision, message.code, message.message, deadly=True)
            else:
                self._load_failed(play, sender, message)
        self._board.left(play, message.revision, sender)
        self._board.forget_if_idle(name)

    def loading(self, sender: str, message: mesh.Loading) -> None:
        """A granted load begins."""
        play = self._board.plays.get(model_of(message.revision))
        holding = play.held_by(message.revision).get(sender) if play is not None else None
        if holding is not None:
            holding.loading = True

    def died(self, play: Play, revision: str, instance: str) -> None:
        """An instance is gone, and was loading it. Once may be chance, so another one may try; but
        one revision must not end all instances, one after the other."""
        failures = self._board.failures
        failures.died(revision, instance)
        deaths = failures.deaths(revision)
        if len(deaths) >= MOST_DEATHS:
            self._put_off(play, revision, "LOAD_FAILED", (
                f"model {play.record.name!r}: {len(deaths)} instances ended while they loaded it "
                f"({', '.join(deaths)}), perhaps for want of memory; it is not loaded by itself "
                "for long. Look into their logs, give them more memory or register the model with "
                "'trust: isolated', so that it has a process of its own; then load it by hand"
            ), deadly=True)

    def give_up(self, revision: Revision) -> Failure | None:
        """Nobody is left who might load it: why, if somebody tried."""
        play = self._board.plays[revision.model]
        if revision.id not in play.tried:
            return None
        return self._all_failed(play, revision.id, "LOAD_FAILED")

    def _declined(
        self, play: Play, sender: str, message: mesh.Failed, urgency: Urgency
    ) -> None:
        """Others are asked rather than this one for a while."""
        if urgency is Urgency.FILL:
            return
        now, longest_s = self._desk.now, self._desk.options.retry_base_s
        until = now + min(message.retry_after_s or longest_s, longest_s)
        self._board.decline(message.revision, sender, Declined(
            message.code, message.message, min(now + DECLINED_S, until), until))
        if urgency is Urgency.WANTED:
            revision = play.revision(message.revision)
            others = self._board.placing.candidates(self._board.want(revision))
            passed = self._board.declined[message.revision]
            if all(each in passed for each in others):
                self._board.failures.record(message.revision, message.code, message.message, now)

    def _load_failed(self, play: Play, sender: str, message: mesh.Failed) -> None:
        """Others are tried at once; when they failed too, all of it waits."""
        tried = play.tried.setdefault(message.revision, {})
        tried[sender] = message.message
        revision = play.revision(message.revision)
        others = self._board.placing.candidates(self._board.want(revision))
        passed = {*tried, *play.staying(message.revision)}
        if not passed.issuperset(others) and len(tried) < self._desk.options.max_tried:
            for slot in play.slots.values():
                if slot.target is not None and slot.target.id == message.revision:
                    self._revisions.stage(slot, Reason.RETRY)
            return
        self._all_failed(play, message.revision, message.code, message.retry_after_s or 0.0)

    def _all_failed(
        self, play: Play, revision: str, code: str, least_s: float = 0.0
    ) -> Failure:
        """least_s: before which trying again is of no use."""
        return self._put_off(play, revision, code, _story(play.tried[revision]), least_s)

    def _put_off(
        self, play: Play, revision: str, code: str, message: str, least_s: float = 0.0, *,
        deadly: bool = False,
    ) -> Failure:
        """All of it waits."""
        play.tried.pop(revision, None)
        failure = self._board.failures.record(
            revision, code, message, self._desk.now, least_s, deadly=deadly)
        for slot in list(play.slots.values()):
            if slot.active.id == revision and slot.fallbacks and not play.is_held(revision):
                self._revisions.fall_back(slot)
        return failure


def _story(tried: dict[str, str]) -> str:
    """What went wrong where."""
    if len(tried) == 1:
        return next(iter(tried.values()))
    said = dict.fromkeys(tried.values())
    if len(said) == 1:
        return f"{next(iter(said))} (on {', '.join(tried)} alike)"
    return "; ".join(f"on {instance}: {message}" for instance, message in tried.items())
