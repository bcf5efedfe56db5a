"""Links between instances: who answers (`server`), who asks (`links`), one link (`link`)."""

from shoal.codecs.peer import (
    GRPC,
    HTTP,
    MANAGEMENT,
    MAX_MESSAGE_BYTES,
    Hello,
    Limits,
    Lost,
    OnReply,
    Outcome,
    PeerCall,
    PeerReply,
)
from shoal.dataplane.peer.link import PeerLink
from shoal.dataplane.peer.links import LinkEvents, PeerLinks
from shoal.dataplane.peer.options import LinkOptions, link_options
from shoal.dataplane.peer.served import Handler
from shoal.dataplane.peer.server import PeerServer, ServerEvents
from shoal.dataplane.peer.tls import TlsFiles, client_context, server_context, tls_files

__all__ = [
    "GRPC", "HTTP", "MANAGEMENT", "MAX_MESSAGE_BYTES", "Handler", "Hello", "Limits", "LinkEvents",
    "LinkOptions", "Lost", "OnReply", "Outcome", "PeerCall", "PeerLink", "PeerLinks", "PeerReply",
    "PeerServer", "ServerEvents", "TlsFiles", "client_context", "link_options", "server_context",
    "tls_files",
]  # fmt: skip
