"""A model in a server that is not Shoal's, as a `LoadedModel`. Must not know how the server is
reached, nor how it lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from shoal.codecs.v2_proto_client import decode_response, encode_request
from shoal.domain.errors import ModelFailed
from shoal.domain.model import JsonValue
from shoal.domain.signature import Signature
from shoal.external.server import Server, Slot

if TYPE_CHECKING:
    from shoal.ports import Arrays

_CONCURRENCY: Final = 4  # calls at once, of a server that does not say


class ExternalModel:
    """See `LoadedModel`."""

    notes: tuple[str, ...] = ()

    def __init__(self, server: Server, slot: Slot) -> None:
        held, artifact = slot.held, slot.model.artifact
        assert held is not None
        self._server = server
        self._slot = slot
        self._name = artifact.model
        self._size_bytes = held.size_bytes
        self.signature = Signature(
            inputs=artifact.inputs or held.inputs, outputs=artifact.outputs or held.outputs)
        self.platform = f"{artifact.format} ({server.name})"
        self.max_concurrency = held.max_concurrency or _CONCURRENCY
        self.may_wait = True
        self.apart = True
        if not (self.signature.inputs and self.signature.outputs):
            self.notes = (
                f"neither its declaration nor runtime {server.name!r} says what it takes and "
                "gives, so requests are not checked",)

    def predict(self, inputs: Arrays, parameters: Mapping[str, JsonValue],
                outputs: tuple[str, ...] = ()) -> Arrays:
        """See `LoadedModel.predict`. Raises Unavailable when its server dies or cannot be started,
        DeadlineExceeded when that does not answer, and what loading it again raises."""
        request = encode_request(self._slot.id, inputs, parameters, outputs)
        answer = self._server.infer(self._slot, request)
        try:
            return decode_response(answer)
        except ValueError as error:
            raise ModelFailed(
                f"model {self._name!r}: runtime {self._server.name!r} answered what breaks the "
                f"protocol: {error}") from error

    def size_bytes(self) -> int | None:
        return self._size_bytes

    def close(self) -> None:
        self._server.let_go(self._slot)
