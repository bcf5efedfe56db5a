"""A model server over its lives, and the models that it shall hold: starts it again when it died,
loads again what it lost, makes room in it, ends it when nobody needs it.

A request that it died under fails, as nobody knows what became of it; the next one waits for its
next life. Must not know processes, connections, nor tensors.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactError,
    DeadlineExceeded,
    InvalidInput,
    InvalidSpecification,
    LoadFailed,
    ModelFailed,
    NoRoom,
    Overloaded,
    ShoalError,
    ShuttingDown,
    Unavailable,
)
from shoal.domain.serving_runtime import ServingRuntime
from shoal.external.interface import CallFailed, ServerFailed, ToLoad
from shoal.external.session import Held, Session
from shoal.isolation.restarts import Restarts
from shoal.observability.logs import get_logger
from shoal.storage.digest import parts_of
from shoal.storage.files import stamp

_GRACE_S: Final = 5.0

log = get_logger("shoal.external")


class Slot:
    """A model's place in a server. holders: how many copies stand for it. held: what the server
    said when it was loaded last. loads: how often it was."""

    def __init__(self, model: ToLoad) -> None:
        self.model = model
        self.holders = 0
        self.held: Held | None = None
        self.loads = 0
        self._turn = threading.Lock()  # while it is loaded or unloaded
        self._calls = 0
        self._used_at = 0.0
        self._in: Session | None = None

    @property
    def id(self) -> str:
        return self.model.id

    @property
    def size_bytes(self) -> int:
        return self.held.size_bytes if self.held is not None else 0

    def is_in(self, session: Session) -> bool:
        return self._in is session

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While it is, it is not taken out for others."""
        self._calls += 1  # a request too many or too few only shifts who leaves
        self._used_at = time.monotonic()
        try:
            yield
        finally:
            self._calls -= 1

    def load(self, session: Session, room: AbstractContextManager[None]) -> None:
        """Unless it is loaded there. However many ask, one loads."""
        with self._turn:
            if self._in is session:
                return
            if self.held is not None:
                self._check_unchanged()
            with room:
                self.held = session.load(self.model)
                self.loads += 1
                self._in = session
            self._used_at = time.monotonic()

    def lost(self, loads: int) -> None:
        """The server does not have it any more, as it was when it had been loaded so often."""
        with self._turn:
            if self.loads == loads:
                self._in = None

    def unload(self, session: Session | None, is_wanted: Callable[[], bool]) -> None:
        """Unless it is wanted again meanwhile."""
        with self._turn:
            if is_wanted():
                return
            was_in, self._in = self._in, None
            if session is not None and was_in is session:
                session.unload(self.id)

    def leave(self, session: Session) -> bool:
        """Leave the server for others, unless it is used or being loaded. Did it?"""
        if self._calls or not self._turn.acquire(blocking=False):
            return False
        try:
            if self._in is not session:
                return False
            self._in = None
            session.unload(self.id)
            return True
        finally:
            self._turn.release()

    @property
    def used_at(self) -> float:
        return self._used_at

    def _check_unchanged(self) -> None:
        path = self.model.path
        if stamp(*parts_of(path)) != self.model.stamp:
            raise ArtifactChanged(
                f"{path.name} is not any more what was loaded, and its server needs it again; "
                "register it anew")


class Server:
    """open_session: starts or reaches it; raises ServerFailed. For any thread."""

    def __init__(self, serving: ServingRuntime, open_session: Callable[[], Session],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.serving = serving
        self.name = serving.name
        self._open = open_session
        self._clock = clock
        self._turn = threading.Lock()  # while it is started or ended
        self._rooms = threading.Lock()
        self._coming: dict[str, int] = {}  # bytes of what is being loaded
        self._session: Session | None = None
        self._restarts = Restarts()
        self._last = ""  # how it ended last
        self._slots: dict[str, Slot] = {}
        self._books = threading.Lock()
        self._idle_since = clock()
        self._is_closed = self._is_restarting = False

    # --- its lives ------------------------------------------------------------------------------

    def session(self) -> Session:
        """The running one; started if need be, which blocks. Raises Unavailable while it dies too
        often, LoadFailed when it does not start."""
        session = self._session
        if session is not None and not session.has_ended:
            return session
        with self._turn:
            if self._is_closed:
                raise ShuttingDown(f"runtime {self.name!r}: Shoal ends")
            if self._session is not None and not self._session.has_ended:
                return self._session
            self._bury()
            wait_s = self._restarts.wait_s(self._clock())
            if wait_s > 0.0:
                raise Unavailable(
                    f"runtime {self.name!r}: its server failed {self._restarts.early} times in a "
                    f"row; the last time it {self._last}. It is tried again in {wait_s:.1f} s",
                    retry_after_s=wait_s)
            self._session = self._opened()
            log.info("a model server is ready", runtime=self.name)
            return self._session

    def _opened(self) -> Session:
        began = self._clock()
        try:
            return self._open()
        except ServerFailed as failed:
            now = self._clock()
            self._restarts.died(now - began, now)
            self._last = failed.why
            raise LoadFailed(
                f"runtime {self.name!r}: its server {failed.why}",
                retry_after_s=max(self._restarts.wait_s(now), 1.0)) from failed

    def _bury(self) -> None:
        """Take note of a life that has ended."""
        dead, self._session = self._session, None
        if dead is None:
            return
        now = self._clock()
        self._restarts.died(now - dead.began_at, now)
        self._last = dead.how
        log.warning("a model server has ended and is taken up again", runtime=self.name,
                    last=dead.how)
        dead.close(0.0)

    def watch(self) -> None:
        """Every few seconds, on one thread: see whether it answers, start it again if models need
        it, end it if none does."""
        session, now = self._session, self._clock()
        if session is not None:
            session.watch(time.monotonic())
        if self._is_closed or self._is_restarting:
            return
        if self._slots:
            if session is None or session.has_ended:
                self._is_restarting = True
                threading.Thread(target=self._again, name=f"shoal-external {self.name}",
                                 daemon=True).start()
        elif session is not None and now - self._idle_since >= self.serving.idle_s:
            self._end_idle()

    def _again(self) -> None:
        try:
            self.session()
        except Unavailable as error:
            log.debug("a model server is not taken up yet", runtime=self.name, cause=error.message)
        finally:
            self._is_restarting = False

    def _end_idle(self) -> None:
        with self._turn:
            with self._books:
                if self._slots:
                    return
            session, self._session = self._session, None
        if session is not None:
            log.info("a model server that no model needs is ended", runtime=self.name)
            session.close(_GRACE_S)

    @property
    def is_idle(self) -> bool:
        """Has it neither a life nor models?"""
        return self._session is None and not self._slots

    def memory_bytes(self) -> int:
        """What processes of it that Shoal started take."""
        session = self._session
        return session.memory_bytes() if session is not None else 0

    def close(self) -> None:
        """It ends, and never begins again. Blocking."""
        self._is_closed = True
        session = self._session
        if session is not None:
            session.close(_GRACE_S)
        with self._turn:  # one that was just being started
            late, self._session = self._session, None
        if late is not None and late is not session:
            late.close(_GRACE_S)

    # --- its models -----------------------------------------------------------------------------

    def hold(self, model: ToLoad) -> Slot:
        """Blocking. Loads it, until `let_go`. Raises as `Session.load`, and `session`."""
        with self._books:
            slot = self._slots.setdefault(model.id, Slot(model))
            slot.model = model
            slot.holders += 1
        try:
            with slot.in_use():
                session = self.session()
                slot.load(session, self._room(slot, session))
        except BaseException:
            self.let_go(slot)
            raise
        return slot

    def let_go(self, slot: Slot) -> None:
        """Blocking. Unloads it, if nobody else holds it."""
        with self._books:
            slot.holders -= 1
        slot.unload(self._session, is_wanted=lambda: slot.holders > 0)
        with self._books:
            if not slot.holders and self._slots.get(slot.id) is slot:
                del self._slots[slot.id]
                self._idle_since = self._clock()

    def infer(self, slot: Slot, request: bytes) -> bytes:
        """A serialized ModelInferRequest to a ModelInferResponse; what the server lost is loaded
        again first, once. Raises InvalidInput, ModelFailed, DeadlineExceeded, Unavailable."""
        with slot.in_use():
            session = self._loaded(slot)
            loads = slot.loads
            try:
                return session.infer(request)
            except CallFailed as failed:
                if not session.has_lost(slot.id, failed):
                    raise self._failure(slot, session, failed) from None
            slot.lost(loads)
            log.warning("a model server has lost a model, which is loaded again",
                        runtime=self.name, model=slot.id)
            session = self._loaded(slot)
            try:
                return session.infer(request)
            except CallFailed as failed:
                raise self._failure(slot, session, failed) from None

    def _loaded(self, slot: Slot) -> Session:
        """The running session, which has it, again if need be."""
        session = self.session()
        if not slot.is_in(session):
            try:
                slot.load(session, self._room(slot, session))
            except (ArtifactError, InvalidSpecification) as error:
                raise LoadFailed(
                    f"runtime {self.name!r} had to load it again: {error.message}") from error
        return session

    @contextmanager
    def _room(self, slot: Slot, session: Session) -> Iterator[None]:
        """Reserved for a model while it is loaded. Who was used longest ago is unloaded for it,
        where the server has a capacity. Raises NoRoom when that does not help."""
        capacity = self.serving.capacity_bytes or session.capacity_bytes
        if capacity is None:
            yield
            return
        needed = session.predict_bytes(slot.model)
        with self._rooms:
            with self._books:
                others = [each for each in self._slots.values() if each.is_in(session)]
            taken = sum(each.size_bytes for each in others) + sum(self._coming.values())
            for each in sorted(others, key=lambda other: other.used_at):
                if taken + needed > capacity and each.leave(session):
                    taken -= each.size_bytes
            if taken + needed > capacity:
                raise NoRoom(
                    f"runtime {self.name!r} has {capacity:,} bytes, of which models in use take "
                    f"{taken:,}, and {slot.model.path.name} needs about {needed:,}")
            self._coming[slot.id] = needed
        try:
            yield
        finally:
            del self._coming[slot.id]

    def _failure(self, slot: Slot, session: Session, failed: CallFailed) -> ShoalError:
        who = f"runtime {self.name!r}"
        details = failed.details.replace(slot.id, slot.model.artifact.model)
        if failed.code in ("INVALID_ARGUMENT", "OUT_OF_RANGE"):
            return InvalidInput(details)
        if failed.code == "DEADLINE_EXCEEDED":
            return DeadlineExceeded(f"{who} did not answer in time (isolation.call_timeout_s)")
        if failed.code == "RESOURCE_EXHAUSTED" and "larger than max" in failed.details:
            return InvalidInput(f"{who} takes no request so large: {details}")
        if failed.code == "RESOURCE_EXHAUSTED":
            return Overloaded(f"{who} takes no more: {details}")
        if session.ended_under(failed):
            how = session.how or f"could not be reached: {failed.details}"
            return Unavailable(f"{who}: its server {how}")
        if failed.code == "UNAVAILABLE":
            return Unavailable(f"{who} is not available: {details}")
        if failed.code == "UNIMPLEMENTED":
            return ModelFailed(
                f"{who} does not answer ModelInfer of the gRPC service "
                "inference.GRPCInferenceService; name the address where it does")
        if failed.code == "NOT_FOUND":
            return ModelFailed(
                f"{who} does not know {slot.id!r}, which it has just loaded: {failed.details}")
        return ModelFailed(f"{who}: {details}")
