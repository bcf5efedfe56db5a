"""The process of one model: `python -m shoal.isolation.host DESCRIPTOR PARENT`.

DESCRIPTOR: the socket it is asked by; PARENT: the number of the process it must not outlive. Loads
one artifact by its runtime, answers, and ends when it is told to or its socket does. What it prints
is the server's to log. Must not know the server's settings, nor other models.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import resource
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Final, NoReturn, cast

from shoal.domain.errors import InvalidArtifact, ModelFailed, ShoalError
from shoal.isolation.channel import Channel, Ended, Packed, Received
from shoal.isolation.memory import bound_memory
from shoal.isolation.messages import (
    Answer,
    Close,
    Done,
    Failure,
    Load,
    Loaded,
    Open,
    Predict,
    Reply,
    encode,
    read_request,
)
from shoal.isolation.tensors import take
from shoal.ports import Artifact, LoadedModel, Noted, RowLimited, Runtime

_PR_SET_PDEATHSIG: Final = 1
_REASON_CHARS: Final = 300


class Host:
    """Answers what comes over its channels, each on a thread of its own."""

    def __init__(self) -> None:
        self._name = ""
        self._model: LoadedModel | None = None

    def serve(self, channel: Channel) -> None:
        """Until the other side hangs up."""
        while True:
            try:
                packed = self._answer(channel, channel.receive())
                channel.send(packed)
            except Ended:
                return

    def close(self) -> None:
        if self._model is not None:
            self._model.close()

    def _answer(self, channel: Channel, received: Received) -> Packed:
        """Holds no array when it returns, so that the channel sees which are still used."""
        request = read_request(received.header)
        if isinstance(request, Predict):
            return self._predict(channel, request, received)
        if isinstance(request, Load):
            return _plain(channel, self._load(request))
        if isinstance(request, Open):
            assert received.descriptor is not None, "a channel without a socket"
            another = Channel(socket.socket(fileno=received.descriptor))
            threading.Thread(target=self.serve, args=(another,), daemon=True).start()
            return _plain(channel, Done())
        assert isinstance(request, Close)
        return self._end(channel)

    def _load(self, load: Load) -> Loaded | Failure:
        self._name = load.model
        if load.memory_bytes:
            bound_memory(os.getpid(), load.memory_bytes)
        path = Path(load.path)
        artifact = Artifact(
            model=load.model, version=load.version, path=path, format=load.format,
            inputs=load.inputs, outputs=load.outputs, options=load.options, threads=load.threads,
            trusted_types=load.trusted_types,
        )
        try:
            self._model = model = _runtime(load.runtime).load(artifact)
        except ShoalError as error:
            return Failure.of(error)
        except BaseException as error:  # noqa: BLE001 - people's code; told as the reason
            return Failure.of(InvalidArtifact(
                f"{path}: its framework ({load.format}) cannot load it: {_reason(error)}"))
        return Loaded(
            signature=model.signature, platform=model.platform,
            max_concurrency=model.max_concurrency,
            max_batch_rows=model.max_batch_rows if isinstance(model, RowLimited) else None,
            notes=model.notes if isinstance(model, Noted) else (),
        )

    def _predict(self, channel: Channel, request: Predict, received: Received) -> Packed:
        assert self._model is not None, "asked before it was loaded"
        try:
            answer = self._model.predict(
                take(request.pieces, received.body), request.parameters, request.outputs)
            return channel.pack(answer, lambda pieces: encode(Answer(pieces)))
        except ShoalError as error:
            return _plain(channel, Failure.of(error))
        except BaseException as error:  # noqa: BLE001 - people's code; told as the reason
            return _plain(channel, Failure.of(
                ModelFailed(f"model {self._name!r} failed: {_reason(error)}")))

    def _end(self, channel: Channel) -> NoReturn:
        """In order: what `close` of a model prints is still heard."""
        status = 0
        try:
            self.close()
        except BaseException as error:  # noqa: BLE001 - people's code; it ends here anyway
            print(f"close failed: {_reason(error)}", file=sys.stderr)  # noqa: T201 - is logged
            status = 1
        channel.send(_plain(channel, Done()))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # threads of frameworks must not hold it up


def _plain(channel: Channel, reply: Reply) -> Packed:
    return channel.pack({}, lambda _: encode(reply))


def _runtime(name: str) -> Runtime:
    module, _, kind = name.partition(":")
    return cast("Runtime", getattr(importlib.import_module(module), kind)())


def _reason(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:_REASON_CHARS]
    if isinstance(error, MemoryError):
        most, _ = resource.getrlimit(resource.RLIMIT_DATA)
        if most != resource.RLIM_INFINITY:
            first += (
                f"{' (' if first else ''}its process may use {most:,} bytes{')' if first else ''}; "
                "raise memory_bytes of the model, or the setting isolation.memory_factor"
            )
    return f"{type(error).__name__}: {first}".removesuffix(": ")


def die_with(parent: int) -> None:
    """End at once when the thread that started this process does; now, if it has already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    descriptor, parent = map(int, sys.argv[1:])
    die_with(parent)
    faulthandler.enable()  # says where a crash was; the log has it
    host = Host()
    host.serve(Channel(socket.socket(fileno=descriptor)))
    host.close()
    os._exit(0)


if __name__ == "__main__":
    main()
