"""How an instance says that it does not answer a forwarded request, and what is made of that.

Errors of the request itself are answers; here is what another instance may do better.
"""

from __future__ import annotations

from typing import Final

import msgspec

from shoal.codecs.peer import Lost, Outcome, PeerReply
from shoal.domain.errors import CopyGone, ShoalError, Unavailable, Unreachable, family
from shoal.domain.events import Miss

_CODES: Final = frozenset(kind.code for kind in family(Unavailable))


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """code: of a class in `domain.errors`, one of Unavailable's. May come from another release."""

    code: str = Unavailable.code
    message: str = ""
    retry_after_s: float = 1.0


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Refusal)


def refusal(error: ShoalError) -> PeerReply | None:
    """What tells the other instance to look elsewhere; None where `error` is the answer."""
    if isinstance(error, CopyGone):
        return PeerReply(Outcome.MISS)
    if isinstance(error, Unavailable):
        said = Refusal(error.code, error.message, error.retry_after_s)
        return PeerReply(Outcome.REFUSED, _ENCODER.encode(said))
    return None


def as_miss(reply: PeerReply | Lost, instance: str, revision: str) -> Miss | ShoalError:
    """Why `instance` did not answer, for the core to decide what follows; or the error that ends
    the request, where trying again would only do more harm."""
    if isinstance(reply, Lost):
        return Miss(
            instance, revision, Unreachable.code,
            f"instance {instance!r} did not answer: {reply.why}", 1.0, lost=reply.written,
        )
    if reply.outcome is Outcome.MISS:
        return Miss(instance, revision, CopyGone.code,
                    f"instance {instance!r} has no copy of {revision!r} any more", 0.0)
    if reply.outcome is Outcome.REFUSED:
        said = _read(reply, instance)
        return Miss(instance, revision, said.code, said.message, said.retry_after_s)
    return ShoalError(f"internal error in instance {instance!r}; its log says more")


def _read(reply: PeerReply, instance: str) -> Refusal:
    """Without a head the link itself refused, with a sentence."""
    if not reply.head:
        why = b"".join(reply.body).decode(errors="replace")
        return Refusal(message=f"instance {instance!r} took no request: {why}")
    try:
        said = _DECODER.decode(reply.head)
    except msgspec.DecodeError:
        return Refusal(message=f"instance {instance!r} refused the request for an unknown reason")
    if said.code not in _CODES:  # of a later release
        return Refusal(message=said.message, retry_after_s=said.retry_after_s)
    return said
