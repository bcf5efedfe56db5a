"""Requests over HTTP that clients sent to another instance, which sent them on to this one."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from shoal.codecs.peer import PeerCall, PeerReply
from shoal.dataplane.endpoints import Endpoints
from shoal.dataplane.http import peer_form
from shoal.dataplane.http.api import CALLS
from shoal.dataplane.http.calls import Question, Target
from shoal.dataplane.http.message import Request, Response
from shoal.dataplane.http.responses import error_response, json_response
from shoal.dataplane.http.routes import Kind, Routes
from shoal.dataplane.peer.received import Form, ReceivedCall, refused
from shoal.domain.errors import ShoalError
from shoal.node.instance import Instance

_FORM: Final = Form(Response, peer_form.pack_answer)


class ReceivedRequests:
    """A handler of calls of the kind HTTP."""

    def __init__(self, instance: Instance, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._inference = endpoints.inference
        self._routes = Routes()
        self._max_body_bytes = instance.settings.http.max_body_bytes
        self._outcomes = instance.metrics.received

    def __call__(self, call: PeerCall) -> PeerReply | Awaitable[PeerReply]:
        request = peer_form.unpack_request(call.head, call.body, call.timeout_ms)
        head = request.head
        target = head.prepared if head is not None else None
        if type(target) is not Target:
            route = self._routes.find(request.method, request.target)
            kind = CALLS.get(route.kind)
            if kind is None:
                return self._described(request, route.kind, call.revision)
            target = Target(kind, route.name, route.version, request.headers)
            if head is not None:
                head.prepared = target
        asked = target.kind(request, target, self._max_body_bytes)
        return self._inference.infer_here(ReceivedCall(asked, _FORM, call, self._outcomes))

    async def _described(self, request: Request, kind: Kind, revision: str) -> PeerReply:
        """The instance that asks gives the answer its request id."""
        question = Question(request, revision=revision)
        try:
            if kind is Kind.MODEL_CONFIG:
                found = await self._endpoints.model_config(question)
            else:
                found = await self._endpoints.model_metadata(question)
        except ShoalError as error:
            reply = refused(error, self._outcomes)
            return peer_form.pack_answer(error_response(error)) if reply is None else reply
        assert not isinstance(found, Response)
        self._outcomes["answered"] += 1
        return peer_form.pack_answer(json_response(found))
