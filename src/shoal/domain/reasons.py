"""Why something was decided: the one vocabulary of logs, metrics, `shoal explain` and events."""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """Each decision carries one."""

    # why a copy is loaded
    REQUESTED = "requested"  # a request waits for it
    ASKED = "asked"  # by hand: management API or repository extension
    NEW_REVISION = "new_revision"  # to take over from the one that serves
    PINNED = "pinned"
    FILL = "fill"  # there is free memory
    RETRY = "retry"  # an earlier load failed
    MIN_COPIES = "min_copies"  # its registration asks for so many
    HOT = "hot"  # it is asked for more than its copies should answer
    STEADY = "steady"  # it is in steady use: a second copy, while there is room
    HANDOVER = "handover"  # an instance that holds it leaves
    BALANCE = "balance"  # an instance that holds it has much more to do than others

    # why a copy leaves
    ROOM = "room"  # evicted: least value a byte
    IDLE = "idle"  # its time-to-live without a request ran out
    REPLACED = "replaced"  # a newer revision took over
    REMOVED = "removed"  # its model was unregistered
    UNLOADED = "unloaded"  # by hand
    TOO_LARGE = "too_large"  # measured larger than the whole budget
    MOVED = "moved"  # another instance holds it instead
    SURPLUS = "surplus"  # fewer copies are enough

    # why a request is refused, or something waits
    NO_ROOM = "no_room"
    THRASHING = "thrashing"
    OVERLOADED = "overloaded"
    FAILED = "failed"
    OUT_OF_SERVICE = "out_of_service"
    FELL_BACK = "fell_back"  # an older version answers, since the newest cannot be loaded

    OTHER = "other"  # one that only a later release knows, of an instance of that release

    @classmethod
    def _missing_(cls, value: object) -> Reason:
        return cls.OTHER
