"""What instances say to each other, without sockets.

`requesting` and `answering` are the two sides of a link; `frames` is what passes between them.
"""

from shoal.codecs.peer.answering import Answering, Asked
from shoal.codecs.peer.calls import (
    GRPC,
    HTTP,
    MANAGEMENT,
    Lost,
    OnReply,
    Outcome,
    PeerCall,
    PeerReply,
)
from shoal.codecs.peer.frames import MAX_MESSAGE_BYTES, PeerFault, goaway_frame
from shoal.codecs.peer.hello import Hello
from shoal.codecs.peer.limits import Limits
from shoal.codecs.peer.outbox import Outbox
from shoal.codecs.peer.requesting import Requesting

__all__ = [
    "GRPC", "HTTP", "MANAGEMENT", "MAX_MESSAGE_BYTES", "Answering", "Asked", "Hello", "Limits",
    "Lost", "OnReply", "Outbox", "Outcome", "PeerCall", "PeerFault", "PeerReply", "Requesting",
    "goaway_frame",
]  # fmt: skip
