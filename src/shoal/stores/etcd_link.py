"""Which member of an etcd cluster is asked: tries another where that is safe, and signs in.

What may have been carried out is never asked twice unless the caller says that it does no harm.
Must not know what is asked. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Final, TypeVar

from shoal.domain.errors import StoreUnavailable
from shoal.stores import rules
from shoal.stores.etcd_answers import Fate, Refused, Unanswered, in_words
from shoal.stores.etcd_endpoint import REACH_S, Endpoint, Metadata, Stream
from shoal.stores.etcd_messages import AUTHENTICATE, Method, authenticate_request
from shoal.stores.etcd_options import EtcdOptions, Login

T = TypeVar("T")

_ELECTION_S: Final = 0.25  # between two rounds while the members choose a leader
# A member that lost sight of the others says so at once, instead of keeping requests and watches
# waiting for a leader.
_REQUIRE_LEADER: Final = ("hasleader", "true")


class Link:
    """The members of `options`, the best one first: a member that failed goes to the end."""

    def __init__(self, options: EtcdOptions) -> None:
        self._options = options
        self._endpoints = deque(Endpoint(each, options.tls) for each in options.endpoints)
        self._sign_in = _SignIn(options.login)
        self._closed = False

    def check_open(self) -> None:
        if self._closed:
            raise rules.closed(f"registry {self._options.url}")

    async def call(self, method: Method[T], request: bytes, *, again: bool) -> T:
        """The answer, of whichever member gives it within the time allowed.

        again: asking twice does no harm. Raises StoreUnavailable, whose message says if the request
        may have been carried out all the same; Refused.
        """
        self.check_open()
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._options.timeout_s
        second_round = again  # a connection may have died of old age, and be replaced by now
        while True:
            reasons: dict[str, str] = {}
            was_cut = False
            for place, endpoint in enumerate(list(self._endpoints)):
                left_s = ends_at - loop.time()
                if left_s <= 0 and reasons:
                    reasons[endpoint.address] = "no time was left for it"
                    continue
                share_s = left_s / (len(self._endpoints) - place)
                try:
                    await endpoint.reach(min(share_s, REACH_S))
                    limit_s = share_s if again else ends_at - loop.time()
                    return await self._ask(endpoint, method, request, limit_s)
                except Unanswered as error:
                    self.check_open()
                    self.demote(endpoint)
                    reasons[endpoint.address] = error.reason
                    was_cut |= error.fate is Fate.UNKNOWN
                    if was_cut and not again:
                        raise self._unknown(endpoint, error) from None
            if loop.time() + _ELECTION_S >= ends_at:
                raise self.unreachable(reasons)
            if "no leader" in reasons.values():
                await asyncio.sleep(_ELECTION_S)
            elif was_cut and second_round:
                second_round = False
            else:
                raise self.unreachable(reasons)

    async def stream(self, method: Method[T]) -> Stream[T]:
        """A stream to the first member that can be reached. Raises StoreUnavailable."""
        self.check_open()
        reasons: dict[str, str] = {}
        for endpoint in list(self._endpoints):
            try:
                await endpoint.reach(REACH_S)
                metadata = await self._metadata(endpoint, self._options.timeout_s)
                return endpoint.open(method, metadata)
            except Unanswered as error:
                self.check_open()
                self.demote(endpoint)
                reasons[endpoint.address] = error.reason
            except Refused as refused:
                raise self.in_words(refused) from None
        raise self.unreachable(reasons)

    def demote(self, endpoint: Endpoint) -> None:
        """It failed: ask the others first."""
        if endpoint is self._endpoints[0]:
            self._endpoints.rotate(-1)

    def sign_in_again(self) -> bool:
        """Forget the token, because it may be what is wrong; False: there is none."""
        return self._sign_in.forget()

    def in_words(self, refused: Refused) -> Exception:
        login = self._options.login
        return in_words(refused, self._options.url, login.user if login else None)

    def unreachable(self, reasons: dict[str, str]) -> StoreUnavailable:
        """reasons: by the address of a member."""
        told = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
        return StoreUnavailable(
            f"registry {self._options.url} cannot be reached ({told}): check that etcd runs there "
            "and that registry.url is right"
        )

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints))

    async def _ask(self, endpoint: Endpoint, method: Method[T], request: bytes, limit_s: float
                   ) -> T:
        """Signs in again once if the token does not count any more."""
        try:
            metadata = await self._metadata(endpoint, limit_s)
            return await endpoint.ask(method, request, limit_s, metadata)
        except Unanswered as error:
            if error.fate is not Fate.TOKEN:
                raise
            if not self._sign_in.forget():
                raise Refused(error.reason) from None
        metadata = await self._metadata(endpoint, limit_s)
        try:
            return await endpoint.ask(method, request, limit_s, metadata)
        except Unanswered as error:
            if error.fate is Fate.TOKEN:
                raise Refused(error.reason) from None
            raise

    async def _metadata(self, endpoint: Endpoint, limit_s: float) -> Metadata:
        token = await self._sign_in.token(endpoint, limit_s)
        return (_REQUIRE_LEADER, ("token", token)) if token else (_REQUIRE_LEADER,)

    def _unknown(self, endpoint: Endpoint, error: Unanswered) -> StoreUnavailable:
        return StoreUnavailable(
            f"registry {self._options.url} was asked for a change and lost sight of "
            f"({endpoint.address}: {error.reason}): the change may have been made all the same, so "
            "look before it is repeated"
        )


class _SignIn:
    """The token that etcd gives for user and password. All members know it, until it expires or
    they start anew."""

    def __init__(self, login: Login | None) -> None:
        self._login = login
        self._token: str | None = None
        self._turn = asyncio.Lock()

    async def token(self, endpoint: Endpoint, limit_s: float) -> str:
        """Empty: none is needed. Raises Refused and Unanswered, for which nothing was done."""
        login = self._login
        if login is None:
            return ""
        if self._token is None:
            async with self._turn:
                if self._token is None:
                    self._token = await self._get(login, endpoint, limit_s)
        return self._token

    def forget(self) -> bool:
        had, self._token = bool(self._login), None
        return had

    async def _get(self, login: Login, endpoint: Endpoint, limit_s: float) -> str:
        try:
            password = await asyncio.to_thread(_password, login)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Unanswered(
                Fate.UNDONE, f"registry.password_file {login.password} cannot be read: {reason}"
            ) from None
        try:
            answer = await endpoint.ask(
                AUTHENTICATE, authenticate_request(login.user, password), limit_s, ()
            )
        except Refused as refused:
            if "authentication is not enabled" in refused.reason:
                return ""
            raise
        except Unanswered as error:
            raise Unanswered(Fate.UNDONE, f"signing in: {error.reason}") from None
        return answer.token


def _password(login: Login) -> str:
    if isinstance(login.password, Path):
        return login.password.read_text(encoding="utf-8").strip("\r\n")
    return login.password
