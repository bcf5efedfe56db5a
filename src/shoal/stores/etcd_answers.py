"""Reads what etcd's refusals mean: was it done, may it be asked again, and in which words.

etcd's error texts are part of its API (`rpctypes`): its own clients tell errors apart by them. Must
not know how calls are made.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from shoal.domain.errors import InvalidSpecification, ShoalError, StoreUnavailable


class Fate(enum.Enum):
    """What became of a request that was not answered as wished."""

    REFUSED = "refused"  # not done, and no other member would do it
    UNDONE = "undone"  # not done; another member, or the same one later, may
    UNKNOWN = "unknown"  # may have been done, or may still be
    TOKEN = "token"  # not done: the user has to sign in again


class Refused(Exception):
    """etcd's own "no". reason: in etcd's words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def is_lease_gone(self) -> bool:
        return "requested lease not found" in self.reason

    @property
    def is_compacted(self) -> bool:
        return "revision has been compacted" in self.reason


class Unanswered(Exception):
    """A member gave no answer. fate: not REFUSED. reason: a few words for people."""

    def __init__(self, fate: Fate, reason: str) -> None:
        super().__init__(reason)
        self.fate = fate
        self.reason = reason


_TOKEN: Final = ("invalid auth token", "revision of auth store is old", "user name is empty")
_UNDONE: Final = ("no leader", "too many requests", "not capable", "learner")
_REFUSED: Final = frozenset({
    "INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND", "OUT_OF_RANGE", "PERMISSION_DENIED",
    "ALREADY_EXISTS", "RESOURCE_EXHAUSTED",
})
_NOISE: Final = re.compile(r".*last error: (?:[A-Z]+: )?(?:ipv[46]:\S+: )?", re.DOTALL)
_CONNECTING: Final = ("failed to connect", "errors resolving")
_CUT: Final = (
    "it closes new connections: perhaps registry.url should begin with etcds:// instead of "
    "etcd://, or the reverse"
)
_HINTS: Final = {  # what gRPC says, in capitals, when connecting fails, and what it means
    "DOMAIN NAME NOT FOUND": "no such host is known",
    "SOCKET CLOSED": _CUT,
    "CONNECTION RESET": _CUT,
    "WRONG_VERSION_NUMBER": "it does not speak TLS: use etcd:// in registry.url",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not signed by an authority of "
                                 "registry.ca_file, or not for this name",
    "SECURITY HANDSHAKER": "registry.ca_file, cert_file or key_file is no certificate or key in "
                           "PEM, or the key is of another certificate",
    # With TLS 1.3 a client believes that all is well until it reads for the first time.
    "TSI_DATA_CORRUPTED": "it refuses this client: it wants a certificate that it accepts, see "
                          "registry.cert_file",
}


def failure(code: str, details: str) -> Refused | Unanswered:
    """code: gRPC's, by name."""
    text = details.removeprefix("etcdserver: ")
    if code == "UNAUTHENTICATED" or any(word in text for word in _TOKEN):
        return Unanswered(Fate.TOKEN, text)
    if any(word in text for word in _UNDONE):
        return Unanswered(Fate.UNDONE, text)
    if code in _REFUSED:
        return Refused(text)
    if code == "UNIMPLEMENTED":
        return Unanswered(Fate.UNDONE, f"it is no etcd of version 3.4 or later: {text}")
    if code == "DEADLINE_EXCEEDED":
        return Unanswered(Fate.UNKNOWN, "it does not answer in time")
    return Unanswered(Fate.UNKNOWN, plain(text) or code.lower())


def plain(details: str) -> str:
    """What gRPC says of a connection, without what only its authors understand."""
    if any(words in details for words in _CONNECTING):
        for sign, meaning in _HINTS.items():
            if sign in details.upper():
                return meaning
    text = _NOISE.sub("", details, count=1)
    return " ".join(text.split())[:300].rstrip(".")


def in_words(refused: Refused, registry: str, user: str | None) -> ShoalError:
    """registry: its URL."""
    reason = refused.reason
    who = f"user {user!r}" if user else "whoever asks without a user"
    if "too large" in reason or "larger than max" in reason or "too many operations" in reason:
        return InvalidSpecification(
            f"registry {registry}: what is to be written at once is more than etcd takes "
            f"({reason}): make it smaller, or raise etcd's --max-request-bytes (1.5 MiB unless set)"
        )
    if "space exceeded" in reason:
        words = ("its database is full: compact and defragment it, then disarm the alarm, or raise "
                 "etcd's --quota-backend-bytes")
    elif "authentication failed" in reason:
        words = f"it does not know {who} with this password: check registry.username and password"
    elif "permission denied" in reason:
        words = f"{who} may not do that: grant a role with readwrite on the keys of this prefix"
    elif "user name is empty" in reason:
        words = "it wants a user: set registry.username and registry.password"
    else:
        words = f"it refuses: {reason}"
    return StoreUnavailable(f"registry {registry}: {words}")
