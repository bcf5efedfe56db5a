"""Calls over gRPC that clients made to another instance, which sent them on to this one."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from time import perf_counter
from typing import Final

from shoal.codecs.peer import PeerCall, PeerReply
from shoal.codecs.v2_proto import RequestReader
from shoal.codecs.v2_proto_answer import ResponseWriter
from shoal.dataplane.endpoints import Endpoints
from shoal.dataplane.grpc import peer_form, statuses
from shoal.dataplane.grpc.calls import MODEL_INFER, InferCall, Question, request_id
from shoal.dataplane.grpc.message import Method, Reply, Request
from shoal.dataplane.grpc.service import config_message, metadata_message
from shoal.dataplane.peer.received import Form, ReceivedCall, refused
from shoal.domain.errors import ShoalError
from shoal.node.instance import Instance

_FORM: Final = Form(Reply, peer_form.pack_reply)


class ReceivedCalls:
    """A handler of calls of the kind GRPC. methods: those that are served, by path."""

    def __init__(
        self, instance: Instance, endpoints: Endpoints, methods: Mapping[str, Method]
    ) -> None:
        self._endpoints = endpoints
        self._inference = endpoints.inference
        self._calls = peer_form.CallReader(methods)
        self._requests = RequestReader()
        self._writer = ResponseWriter()
        self._outcomes = instance.metrics.received

    def __call__(self, call: PeerCall) -> PeerReply | Awaitable[PeerReply]:
        request = self._calls.read(call.head, call.body, call.timeout_ms, perf_counter())
        if request.head.path != MODEL_INFER:
            return self._described(request, call.revision)
        try:
            received = self._requests.read(request.message)
        except ShoalError as error:
            return self._refuse(request, error)
        asked = InferCall(request, received, self._writer)
        return self._inference.infer_here(ReceivedCall(asked, _FORM, call, self._outcomes))

    async def _described(self, request: Request, revision: str) -> PeerReply:
        question = Question(request, revision=revision)
        try:
            if request.head.path.endswith("/ModelConfig"):
                config = await self._endpoints.model_config(question)
                assert not isinstance(config, Reply)
                message = config_message(config)
            else:
                described = await self._endpoints.model_metadata(question)
                assert not isinstance(described, Reply)
                message = metadata_message(described)
        except ShoalError as error:
            return self._refuse(request, error)
        self._outcomes["answered"] += 1
        return peer_form.pack_reply(Reply([message]))

    def _refuse(self, request: Request, error: ShoalError) -> PeerReply:
        reply = refused(error, self._outcomes)
        if reply is not None:
            return reply
        return peer_form.pack_reply(statuses.of_error(error, request_id(request)))
