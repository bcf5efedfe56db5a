"""What this instance answers to others: the same requests that clients send here, for its copies.

Must not know who they are, nor how they are reached.
"""

from __future__ import annotations

from collections.abc import Mapping

from shoal.codecs.peer import GRPC, HTTP
from shoal.dataplane.endpoints import Endpoints
from shoal.dataplane.grpc.message import Method
from shoal.dataplane.grpc.received import ReceivedCalls
from shoal.dataplane.http.received import ReceivedRequests
from shoal.dataplane.peer.received import by_kind
from shoal.dataplane.peer.served import Handler
from shoal.node.instance import Instance


def peer_handler(
    instance: Instance, endpoints: Endpoints, methods: Mapping[str, Method]
) -> Handler:
    """For a `PeerServer`. methods: of the gRPC port, by path."""
    return by_kind(
        {
            HTTP: ReceivedRequests(instance, endpoints),
            GRPC: ReceivedCalls(instance, endpoints, methods),
        },
        instance.metrics.received,
    )
