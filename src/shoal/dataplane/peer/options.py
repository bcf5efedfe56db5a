"""How patient links are with each other. Must not know sockets."""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.codecs.peer import Limits
from shoal.settings import MeshSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """Seconds. ping_s: a link that was silent for so long is asked whether it lives. silence_s: one
    that stays silent for so long is cut. greet_s: to connect, agree on TLS and introduce each
    other. redial_least_s, redial_most_s: between attempts to reach a member, growing."""

    ping_s: float = 1.0
    silence_s: float = 3.0
    greet_s: float = 3.0
    redial_least_s: float = 0.05
    redial_most_s: float = 2.0
    limits: Limits = field(default_factory=Limits)

    @property
    def silent_looks(self) -> int:
        """How many looks, `ping_s` apart, may find that nothing came. Counted in looks, not in
        time: an event loop that was itself held up would otherwise cut all its links."""
        return max(1, round(self.silence_s / self.ping_s))


def link_options(settings: MeshSettings, max_body_bytes: int) -> LinkOptions:
    """max_body_bytes: of requests; replies may be as large, or as the default where it is more."""
    limits = Limits()
    return LinkOptions(
        ping_s=settings.silence_s / 3, silence_s=settings.silence_s, greet_s=settings.silence_s,
        limits=Limits(max_body_bytes=max(limits.max_body_bytes, max_body_bytes)),
    )
