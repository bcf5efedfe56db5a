"""Starts a model server, or reaches one that runs, and waits until it is ready.

Must not know which models it shall hold, nor when it is started again.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from shoal.domain.errors import InvalidSpecification
from shoal.domain.serving_runtime import ServingRuntime
from shoal.external.claim import Claim
from shoal.external.connection import Connection
from shoal.external.interface import CallFailed, Interface, Reported, ServerFailed
from shoal.external.mlserver import MlserverLayout, write_server_settings
from shoal.external.model_runtime import ModelRuntime
from shoal.external.options import ExternalOptions
from shoal.external.process import ServerProcess
from shoal.external.repository import Layout, Repository
from shoal.external.session import Limits, Server, Session
from shoal.external.triton import TritonLayout
from shoal.isolation.variables import variables

PORTS: Final = ("grpc_port", "management_port", "http_port", "metrics_port")
_REACH_S: Final = 5.0  # until somebody must listen who is said to run already
_FIRST_POLL_S: Final = 0.05
_MOST_POLL_S: Final = 0.5


class Opening:
    """How one server comes to life, again and again. stopping: set when Shoal ends."""

    def __init__(self, serving: ServingRuntime, options: ExternalOptions, stopping: threading.Event
                 ) -> None:
        if bool(serving.command) == (serving.address is not None):
            raise InvalidSpecification(
                f"runtime {serving.name!r} must have either a 'command', to be started with, or an "
                "'address', where it runs")
        if serving.address is not None and serving.serves is not None and not serving.models_dir:
            raise InvalidSpecification(
                f"runtime {serving.name!r} runs already, and serves as {serving.serves} does: say "
                "with 'models_dir' which folder its model repository is, so that models can be put "
                "there")
        self._serving = serving
        self._options = options
        self._stopping = stopping

    def __call__(self) -> Session:
        """A session that is ready. Raises ServerFailed."""
        name = self._serving.name
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._options.folder()))
            try:
                return self._started(folder) if self._serving.command else self._reached(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        except OSError as error:
            raise ServerFailed(f"cannot be used: {error}") from error

    def _started(self, folder: Path) -> Session:
        serving = self._serving
        models = folder / "models"
        models.mkdir()
        ports = free_ports()
        if serving.serves == "mlserver":
            write_server_settings(models, ports)
        words = {**{name: str(port) for name, port in ports.items()},
                 "models": str(models), "name": serving.name}
        environ = {
            **variables(os.environ, foreign=True),
            **{name: filled(value, words) for name, value in serving.environment.items()},
        }
        process = ServerProcess(
            serving.name, [filled(word, words) for word in serving.command], environ,
            os.getpriority(os.PRIO_PROCESS, os.getpid()) + self._options.niceness)
        apart = any("{management_port}" in word
                    for word in (*serving.command, *serving.environment.values()))
        control = ports["management_port" if apart else "grpc_port"]
        return self._session(
            (f"127.0.0.1:{ports['grpc_port']}", f"127.0.0.1:{control}"), folder, models, process)

    def _reached(self, folder: Path) -> Session:
        serving = self._serving
        assert serving.address is not None
        management = serving.management_address or serving.address
        claim = Claim(management, self._options.instance, folder.parent)
        models = Path(serving.models_dir) if serving.models_dir else None
        return self._session((serving.address, management), folder, models, claim=claim)

    def _session(self, addresses: tuple[str, str], folder: Path, models: Path | None,
                 process: ServerProcess | None = None, claim: Claim | None = None) -> Session:
        """addresses: for requests, and for models. folder: goes with it."""
        def end() -> None:
            if claim is not None:
                claim.end()
            shutil.rmtree(folder, ignore_errors=True)

        data, control = map(Connection, addresses)
        try:
            interface = self._interface(control, models, folder)
            reported = self._ready(interface, process)
            return Session(
                Server(self._serving.name, interface, data, control, reported, process, end),
                self._limits(reported))
        except BaseException:
            if process is not None:
                process.kill("was ended")
            data.close()
            control.close()
            end()
            raise

    def _interface(self, control: Connection, models: Path | None, folder: Path) -> Interface:
        serving = self._serving
        if serving.interface == "model-runtime":
            return ModelRuntime(control, folder)
        layouts: Mapping[str, Callable[[Path], Layout]] = {
            "triton": TritonLayout, "mlserver": MlserverLayout}
        layout = None
        if serving.serves is not None and models is not None:
            layout = layouts[serving.serves](models)
        return Repository(control, layout)

    def _limits(self, reported: Reported) -> Limits:
        serving, options = self._serving, self._options
        return Limits(
            max_loading=serving.max_loading or reported.max_loading or 1,
            load_timeout_s=(
                serving.load_timeout_s or reported.load_timeout_s or options.load_timeout_s),
            call_timeout_s=options.call_timeout_s, hang_s=options.hang_s)

    def _ready(self, interface: Interface, process: ServerProcess | None) -> Reported:
        """What it reports, once it is ready."""
        timeout_s = self._serving.start_timeout_s
        began = time.monotonic()
        pause_s, last = _FIRST_POLL_S, "it says that it is not ready"
        is_reached = process is not None
        while True:
            try:
                reported = interface.status()
                if reported is not None:
                    return reported
                is_reached = True
            except CallFailed as failed:
                if failed.code == "UNIMPLEMENTED":
                    raise ServerFailed(
                        "does not implement mmesh.ModelRuntime, which its declaration says "
                        "('interface: model-runtime')") from None
                last = str(failed)
            if process is not None and process.wait(0.0):
                raise ServerFailed(f"{process.how}, before it was ready")
            if self._stopping.wait(pause_s):
                raise ServerFailed("is not needed any more, as Shoal ends")
            pause_s = min(pause_s * 1.5, _MOST_POLL_S)
            waited_s = time.monotonic() - began
            if waited_s >= timeout_s:
                why = f"was not ready within {timeout_s:g} s (start_timeout_s): {last}"
                if process is not None:
                    process.kill(why)
                raise ServerFailed(process.how if process is not None else why)
            if not is_reached and waited_s >= min(_REACH_S, timeout_s):
                raise ServerFailed(f"cannot be reached: {last}")


def free_ports() -> dict[str, int]:
    """Ports of this machine that nobody listens on now. One may be taken before the server comes to
    it; then the server does not start, and the next time it gets others."""
    listening = [socket.socket() for _ in PORTS]
    try:
        for each in listening:
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1]
                for name, each in zip(PORTS, listening, strict=True)}
    finally:
        for each in listening:
            each.close()


def filled(text: str, words: Mapping[str, str]) -> str:
    """`text` with what stands in its placeholders; other braces are its own."""
    for name, value in words.items():
        text = text.replace(f"{{{name}}}", value)
    return text
