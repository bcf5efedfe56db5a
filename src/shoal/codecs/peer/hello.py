"""How two instances introduce themselves, and whether they can talk. Must not know what follows.

The protocol has a number. Each side names the lowest and the highest it speaks, and both use the
highest that they have in common; a change that older instances can ignore needs no new number.
"""

from __future__ import annotations

import msgspec

from shoal.codecs.peer.frames import HELLO, PeerFault, frame

LOWEST = HIGHEST = 1


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks.

    mesh: name of the mesh, so that two never mix. incarnation: of this process; an instance that
    restarts under its old name has another. version: of Shoal. lowest, highest: protocols spoken.
    """

    instance: str
    mesh: str
    incarnation: str = ""
    version: str = ""
    lowest: int = LOWEST
    highest: int = HIGHEST


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Hello)


def hello_frame(hello: Hello) -> bytes:
    return frame(HELLO, 0, _encoder.encode(hello))


def read_hello(payload: bytes) -> Hello:
    """Raises PeerFault when this is no introduction; unknown fields are ignored."""
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PeerFault(f"the introduction cannot be read: {error}") from error


def agree(ours: Hello, theirs: Hello) -> int:
    """The protocol both speak. Raises PeerFault when they belong to different meshes, are one and
    the same instance, or have no protocol in common."""
    if ours.mesh != theirs.mesh:
        raise PeerFault(
            f"instance {theirs.instance} belongs to mesh {theirs.mesh!r}, {ours.instance} to "
            f"{ours.mesh!r}; give both the same registry, or stop using the other's address"
        )
    if ours.instance == theirs.instance:
        raise PeerFault(
            f"two instances are called {ours.instance}; give each its own instance_id"
        )
    highest = min(ours.highest, theirs.highest)
    if highest < max(ours.lowest, theirs.lowest):
        raise PeerFault(
            f"instance {ours.instance} (Shoal {ours.version}) speaks the peer protocols "
            f"{ours.lowest} to {ours.highest}, {theirs.instance} (Shoal {theirs.version}) "
            f"{theirs.lowest} to {theirs.highest}; upgrade by way of a version that speaks both"
        )
    return highest
