"""`shoal` as a later release might be: `python -m tests.later_release LOWEST HIGHEST SHOAL serve …`

speaks the peer protocols LOWEST to HIGHEST, and says more than this release knows wherever others
read what it writes: fields in records, introductions, messages, questions, answers and heads;
reasons; messages and frames of a new kind; flags. It reads as this release does.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

import shoal
from shoal.cli.main import run
from shoal.codecs.peer import Answering, PeerCall, PeerReply, Requesting, hello
from shoal.codecs.peer.calls import OnReply
from shoal.codecs.peer.frames import LAST_KIND, frame
from shoal.dataplane.grpc import peer_form as grpc_form
from shoal.dataplane.http import peer_form as http_form
from shoal.dataplane.peer import Hello, links, mesh, refusals
from shoal.domain.mesh import Grant
from shoal.node import (
    answering,
    asking,
    instance,
    member_records,
    records,
    serving_runtimes,
    usage,
)

VERSION = "99.0.0"
MORE = {"field": ["of", "a", "later", "release"]}
FRAME = frame(LAST_KIND + 1, 7, bytes(100_000))
KIND = "Rumour"
MESSAGE = msgspec.msgpack.encode({"type": KIND, "about": "nobody"})
WRITERS = [
    (hello, "_encoder"), (member_records, "_encoder"), (instance, "_ENCODER"),
    (records, "_ENCODER"), (usage, "_ENCODER"), (asking, "_ENCODER"), (answering, "_ENCODER"),
    (serving_runtimes, "_ENCODER"), (refusals, "_ENCODER"), (http_form, "_ENCODER"),
    (grpc_form, "_ENCODER"),
]  # fmt: skip


def longer(value: Any) -> Any:
    """With a field more in every struct, however deep."""
    if isinstance(value, dict):
        return {key: longer(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [longer(each) for each in value]
    if not isinstance(value, msgspec.Struct):
        return value
    config = value.__struct_config__
    fields = [longer(getattr(value, name)) for name in value.__struct_fields__]
    if config.array_like:
        assert config.tag is None
        return [*fields, MORE]
    made = dict(zip(value.__struct_encode_fields__, fields, strict=True))
    made["of_a_later_release"] = MORE
    if config.tag_field is not None:
        made[config.tag_field] = config.tag
    if isinstance(value, Grant):
        made["reason"] = "a_new_reason"
    return made


class Longer:
    """An encoder."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def encode(self, value: object) -> bytes:
        raw: bytes = self._encoder.encode(longer(value))
        return raw


def speak_further() -> None:
    """Frames and messages of new kinds, and flags, with whatever is said."""
    request, reply, tell = Requesting.request, Answering.reply, links.PeerLinks.tell

    def request_further(self: Requesting, call: PeerCall, on_reply: OnReply) -> int | None:
        call.flags |= 0x80
        self.out.add(FRAME)
        return request(self, call, on_reply)

    def reply_further(self: Answering, stream: int, answer: PeerReply) -> None:
        self.out.add(FRAME)
        reply(self, stream, answer)

    def tell_further(self: links.PeerLinks, to: str, message: bytes) -> bool:
        tell(self, to, MESSAGE)
        return tell(self, to, message)

    Requesting.request = request_further  # type: ignore[method-assign]
    Answering.reply = reply_further  # type: ignore[method-assign, assignment]
    links.PeerLinks.tell = tell_further  # type: ignore[method-assign, assignment]


def main(lowest: int, highest: int) -> None:
    shoal.__version__ = VERSION

    def introduce(**fields: str) -> Hello:
        return Hello(**fields, lowest=lowest, highest=highest)

    for module, name in WRITERS:
        setattr(module, name, Longer(getattr(module, name)))
    mesh.__dict__["Hello"] = introduce
    speak_further()
    run()


if __name__ == "__main__":
    _, lowest, highest, *sys.argv = sys.argv
    main(int(lowest), int(highest))
