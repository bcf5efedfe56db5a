"""A store in an etcd cluster (3.4 or later): shared by instances on any number of machines.

The `KVStore` contract in etcd's requests. Which member is asked lies in `etcd_link`, how a watch
survives in `etcd_watch`. Revisions are etcd's own, which others who use the cluster raise too.
Needs grpcio.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Final

from shoal.domain.errors import ShoalError, StoreUnavailable
from shoal.observability.logs import get_logger
from shoal.ports import Change, Compacted, Entry, Listing, Op, Put
from shoal.stores import rules
from shoal.stores.etcd_answers import Refused
from shoal.stores.etcd_link import Link
from shoal.stores.etcd_messages import (
    DELETED,
    GRANT,
    KEEP_ALIVE,
    RANGE,
    REVOKE,
    TXN,
    Fields,
    KeyValue,
    RangeAnswer,
    Span,
    TxnAnswer,
    delete_op,
    grant_request,
    keep_alive_request,
    nested_op,
    put_op,
    range_request,
    revoke_request,
    txn_request,
)
from shoal.stores.etcd_options import EtcdOptions
from shoal.stores.etcd_watch import Patience, follow
from shoal.stores.singly import WritesSingly

MAX_EXPECTED: Final = 64
MAX_OPS: Final = 64 * 64
"""Of one transaction. etcd takes 128 operations unless told otherwise (`--max-txn-ops`), counted at
each depth: 64 transactions of 64 operations each, within one, are still one transaction."""

_NEST: Final = 64
_FLAT: Final = 128
_PAGE: Final = 5_000
_TRIES: Final = 6  # to read a listing that is compacted away meanwhile
_LARGER: Final = 4  # the pages of every further try: one that takes all in one cannot be parted
_REVOKE_S: Final = 2.0  # what closing may take for leases: they end by themselves

log = get_logger("shoal.stores")


class EtcdStore(WritesSingly):
    """See `ports.KVStore`. Leases last whole seconds, at least two with etcd's usual settings;
    those granted here are revoked by `close`."""

    def __init__(
        self, options: EtcdOptions, *, pulse_s: float | None = None, page: int = _PAGE
    ) -> None:
        """Connects to nothing yet. pulse_s: a member that a watch hears nothing of is asked for a
        sign of life after so many seconds; else after as many as a request may take. page: entries
        that are read at once."""
        self.options = options
        self._prefix = options.prefix.encode()
        self._link = Link(options)
        self._patience = Patience(pulse_s or options.timeout_s, options.timeout_s)
        self._page = page
        self._granted: set[int] = set()
        self._closed = False

    # --- reading

    async def get(self, key: str) -> Entry | None:
        self._link.check_open()
        answer = await self._range(Span(self._key(key)))
        return self._entry(answer.kvs[0]) if answer.kvs else None

    async def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Listing:
        """Read in several requests, all at the revision of the first; in fewer and larger ones
        where that revision is compacted away before the last of them."""
        for tried in range(_TRIES):
            try:
                page = self._page * _LARGER**tried
                return await self._list(self._span(prefix, start_after), limit, page)
            except Compacted:
                continue
        raise StoreUnavailable(
            f"registry {self.options.url}: its history is dropped faster than it can be listed; "
            "compact it less often"
        )

    async def _list(self, span: Span, limit: int | None, page: int) -> Listing:
        most = math.inf if limit is None else limit + 1  # one more tells whether there are more
        found: list[KeyValue] = []
        revision = 0
        while True:
            answer = await self._range(span, int(min(page, most - len(found))), revision)
            revision = revision or answer.header.revision
            found += answer.kvs
            if not answer.more or len(found) >= most:
                break
            span = Span(found[-1].key + b"\0", span.end)
        entries = [self._entry(each) for each in found[:limit]]
        return Listing(entries, revision, more=len(entries) < len(found))

    async def _range(self, span: Span, limit: int = 0, revision: int = 0) -> RangeAnswer:
        request = range_request(span, limit=limit, revision=revision)
        try:
            return await self._link.call(RANGE, request, again=True)
        except Refused as refused:
            if refused.is_compacted:
                raise Compacted(revision + 1) from None
            raise self._link.in_words(refused) from None

    # --- writing

    async def transact(self, ops: Sequence[Op]) -> int:
        """At most MAX_OPS, of which MAX_EXPECTED with an `expect`; ValueError beyond.

        Raises InvalidSpecification for more bytes than etcd takes in a request (1.5 MiB unless it
        was told otherwise).
        """
        self._link.check_open()
        rules.check_ops(ops)
        expecting = [op for op in ops if op.expect is not None]
        if len(ops) > _FLAT and (len(ops) > MAX_OPS or len(expecting) > MAX_EXPECTED):
            raise ValueError(
                f"{len(ops)} writes in one transaction, {len(expecting)} of which expect a "
                f"revision: etcd takes {MAX_OPS} and {MAX_EXPECTED}, or {_FLAT} that all may"
            )
        expected = [(self._key(op.key), op.expect or 0) for op in expecting]
        request = txn_request(expected, _grouped([self._op(op) for op in ops]))
        try:
            answer = await self._link.call(TXN, request, again=not ops)
        except Refused as refused:
            leases = [op.lease for op in ops if isinstance(op, Put) and op.lease is not None]
            if refused.is_lease_gone and leases:
                raise rules.lease_lost(leases[0]) from None
            raise self._link.in_words(refused) from None
        if not answer.succeeded:
            self._raise_conflict(expecting, answer)
        return answer.header.revision

    def _op(self, op: Op) -> Fields:
        key = self._key(op.key)
        return put_op(key, op.value, op.lease) if isinstance(op, Put) else delete_op(key)

    def _raise_conflict(self, expecting: Sequence[Op], answer: TxnAnswer) -> None:
        for op, found in zip(expecting, answer.responses, strict=True):
            kvs = found.response_range.kvs
            rules.check_expected(op.key, op.expect, kvs[0].mod_revision if kvs else 0)
        raise AssertionError("a transaction failed although all that it expected holds")

    # --- watching

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Change]:
        self._link.check_open()
        answers = follow(
            self._link, self._span(prefix, None), from_revision, self._patience, self._revision
        )
        try:
            async for events in answers:
                for event in events:
                    kv = event.kv
                    value = None if event.type == DELETED else kv.value
                    yield Change(self._name(kv.key), value, kv.mod_revision)
        finally:
            await answers.aclose()

    async def _revision(self) -> int:
        answer = await self._range(Span(self._prefix))
        return answer.header.revision

    # --- leases

    async def grant(self, ttl_s: float) -> int:
        self._link.check_open()
        rules.check_ttl(ttl_s)
        try:  # asked twice, it leaves a lease without keys, which ends by itself
            answer = await self._link.call(GRANT, grant_request(math.ceil(ttl_s)), again=True)
        except Refused as refused:
            raise self._link.in_words(refused) from None
        self._granted.add(answer.ID)
        return answer.ID

    async def keep_alive(self, lease: int) -> None:
        try:
            answer = await self._link.call(KEEP_ALIVE, keep_alive_request(lease), again=True)
        except Refused as refused:
            if not refused.is_lease_gone:
                raise self._link.in_words(refused) from None
            gone = True
        else:
            gone = answer.TTL <= 0
        if gone:
            self._granted.discard(lease)
            raise rules.lease_lost(lease)

    async def revoke(self, lease: int) -> None:
        try:
            await self._link.call(REVOKE, revoke_request(lease), again=True)
        except Refused as refused:
            if not refused.is_lease_gone:
                raise self._link.in_words(refused) from None
        self._granted.discard(lease)

    # --- the end

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(_REVOKE_S):
                await asyncio.gather(*map(self.revoke, sorted(self._granted)))
        except (ShoalError, TimeoutError) as error:  # they end by themselves, only later
            log.warning("leases were not revoked", error=str(error) or "etcd does not answer")
        finally:
            await self._link.close()

    # --- keys

    def _key(self, key: str) -> bytes:
        return self._prefix + rules.encode_key(key)

    def _span(self, prefix: str, start_after: str | None) -> Span:
        """All keys that begin with `prefix`, behind `start_after`."""
        low = self._prefix + prefix.encode()
        end = low[:-1] + bytes([low[-1] + 1])  # UTF-8 has no byte 0xFF: the last one can grow
        if start_after:
            low = max(low, self._prefix + start_after.encode() + b"\0")
        return Span(min(low, end), end)

    def _name(self, key: bytes) -> str:
        return key[len(self._prefix) :].decode(errors="backslashreplace")

    def _entry(self, kv: KeyValue) -> Entry:
        return Entry(self._name(kv.key), kv.value, kv.mod_revision)


def _grouped(ops: Sequence[Fields]) -> Sequence[Fields]:
    if len(ops) <= _FLAT:
        return ops
    return [nested_op(ops[at : at + _NEST]) for at in range(0, len(ops), _NEST)]
