"""etcd's messages: requests as bytes, answers as they come, and which call takes which.

The .proto files are in `protos`, in a pool of their own: in protobuf's default one other libraries
of the process may register the same names. Must not know how messages travel nor what they are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Generic, Protocol, TypeAlias, TypeVar, cast

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

Fields: TypeAlias = dict[str, object]

T = TypeVar("T")
Answer_co = TypeVar("Answer_co", covariant=True)

Reads: TypeAlias = Callable[[bytes], T]

_POOL: Final = DescriptorPool()
for _file in FileDescriptorSet.FromString(
    (files("shoal.stores") / "protos" / "descriptors.binpb").read_bytes()
).file:
    _POOL.AddSerializedFile(_file.SerializeToString())


# --- answers: etcd's messages with their fields -------------------------------------------------


class Header(Protocol):
    cluster_id: int
    revision: int


class Answer(Protocol):
    header: Header


class KeyValue(Protocol):
    key: bytes
    value: bytes
    mod_revision: int


class RangeAnswer(Answer, Protocol):
    kvs: Sequence[KeyValue]
    more: bool


class ResponseOp(Protocol):
    response_range: RangeAnswer


class TxnAnswer(Answer, Protocol):
    succeeded: bool
    responses: Sequence[ResponseOp]


class Event(Protocol):
    type: int
    kv: KeyValue


class WatchAnswer(Answer, Protocol):
    watch_id: int
    created: bool
    canceled: bool
    compact_revision: int
    cancel_reason: str
    events: Sequence[Event]


class LeaseAnswer(Answer, Protocol):
    ID: int
    TTL: int


class AuthenticateAnswer(Answer, Protocol):
    token: str


DELETED: Final = 1  # the `type` of an Event


# --- calls --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Method(Generic[Answer_co]):
    """path: of the call in HTTP/2. streams: the call takes and gives a stream."""

    path: str
    answer: Callable[[bytes], Answer_co]
    streams: bool = False


def _class(name: str) -> type[Message]:
    return GetMessageClass(_POOL.FindMessageTypeByName(f"etcdserverpb.{name}"))


_RangeRequest: Final = _class("RangeRequest")
_TxnRequest: Final = _class("TxnRequest")
_WatchRequest: Final = _class("WatchRequest")

def _reader(name: str) -> Callable[[bytes], Message]:
    return _class(name).FromString


RANGE: Final = Method("/etcdserverpb.KV/Range", cast(Reads[RangeAnswer], _reader("RangeResponse")))
TXN: Final = Method("/etcdserverpb.KV/Txn", cast(Reads[TxnAnswer], _reader("TxnResponse")))
WATCH: Final = Method(
    "/etcdserverpb.Watch/Watch", cast(Reads[WatchAnswer], _reader("WatchResponse")), streams=True
)
GRANT: Final = Method(
    "/etcdserverpb.Lease/LeaseGrant", cast(Reads[LeaseAnswer], _reader("LeaseGrantResponse"))
)
REVOKE: Final = Method(
    "/etcdserverpb.Lease/LeaseRevoke", cast(Reads[Answer], _reader("LeaseRevokeResponse"))
)
KEEP_ALIVE: Final = Method(
    "/etcdserverpb.Lease/LeaseKeepAlive",
    cast(Reads[LeaseAnswer], _reader("LeaseKeepAliveResponse")), streams=True,
)
STATUS: Final = Method(
    "/etcdserverpb.Maintenance/Status", cast(Reads[Answer], _reader("StatusResponse"))
)
AUTHENTICATE: Final = Method(
    "/etcdserverpb.Auth/Authenticate",
    cast(Reads[AuthenticateAnswer], _reader("AuthenticateResponse")),
)


# --- requests -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """The keys from `key` up to `end`; without an end, `key` alone."""

    key: bytes
    end: bytes = b""


def range_request(span: Span, *, limit: int = 0, revision: int = 0) -> bytes:
    """limit: 0 for none. revision: 0 for the newest state."""
    return _RangeRequest(
        key=span.key, range_end=span.end, limit=limit, revision=revision
    ).SerializeToString()


def put_op(key: bytes, value: bytes, lease: int | None) -> Fields:
    return {"request_put": {"key": key, "value": value, "lease": lease or 0}}


def delete_op(key: bytes) -> Fields:
    return {"request_delete_range": {"key": key}}


def nested_op(ops: Sequence[Fields]) -> Fields:
    """A transaction within one; its writes have the revision of the whole."""
    return {"request_txn": {"success": ops}}


def txn_request(expected: Sequence[tuple[bytes, int]], ops: Sequence[Fields]) -> bytes:
    """`ops` in order, if each of the `expected` keys is at its revision (0: does not exist); else
    the answer has the state of each of them, in order."""
    return _TxnRequest(
        compare=[
            {"target": "MOD", "result": "EQUAL", "key": key, "mod_revision": revision}
            for key, revision in expected
        ],
        success=ops,
        failure=[{"request_range": {"key": key, "keys_only": True}} for key, _ in expected],
    ).SerializeToString()


def watch_request(span: Span, start_revision: int) -> bytes:
    return _WatchRequest(
        create_request={
            "key": span.key, "range_end": span.end, "start_revision": start_revision,
            "progress_notify": True,
        }
    ).SerializeToString()


SIGN_OF_LIFE_REQUEST: Final = _WatchRequest(progress_request={}).SerializeToString()
STATUS_REQUEST: Final = _class("StatusRequest")().SerializeToString()


def grant_request(ttl_s: int) -> bytes:
    return _class("LeaseGrantRequest")(TTL=ttl_s).SerializeToString()


def revoke_request(lease: int) -> bytes:
    return _class("LeaseRevokeRequest")(ID=lease).SerializeToString()


def keep_alive_request(lease: int) -> bytes:
    return _class("LeaseKeepAliveRequest")(ID=lease).SerializeToString()


def authenticate_request(name: str, password: str) -> bytes:
    return _class("AuthenticateRequest")(name=name, password=password).SerializeToString()
