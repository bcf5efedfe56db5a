"""All model servers of this instance that are not its own: which there are, which models they hold,
one thread that watches over them. Must not know how any of them is spoken to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.domain.errors import LoadFailed, RuntimeMissing, ShuttingDown
from shoal.domain.model import Revision
from shoal.domain.serving_runtime import ServingRuntime
from shoal.external.interface import ToLoad
from shoal.external.mlserver import is_mlserver_folder
from shoal.external.model import ExternalModel
from shoal.external.names import server_name
from shoal.external.server import Server
from shoal.external.triton import is_triton_folder
from shoal.observability.logs import get_logger
from shoal.ports import Artifact
from shoal.storage.digest import parts_of
from shoal.storage.files import stamp

if TYPE_CHECKING:
    from shoal.external.options import ExternalOptions
    from shoal.external.session import Session

log = get_logger("shoal.external")


class ExternalServers:
    """For any thread."""

    def __init__(self, options: ExternalOptions) -> None:
        self._options = options
        self._servers: list[Server] = []
        self._turn = threading.Lock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def load(self, serving: ServingRuntime, artifact: Artifact, revision: Revision
             ) -> ExternalModel:
        """Blocking. Its server is started or reached first, if need be. Raises InvalidArtifact when
        the server refuses the model, LoadFailed when it cannot be started or does not load it in
        time, Unavailable, NoRoom; InvalidSpecification for what its declaration lacks, and for
        wrong options; RuntimeMissing without grpcio."""
        if serving.disabled:
            raise LoadFailed(
                f"runtime {serving.name!r} is disabled: nothing is loaded into it; enable it, or "
                "name another runtime")
        server = self._server(serving)
        own_names = serving.interface == "v2" and serving.serves is None
        version = revision.format_version or next(
            (each.version for each in serving.formats if each.name == artifact.format), None)
        slot = server.hold(ToLoad(
            id=artifact.model if own_names else server_name(revision), artifact=artifact,
            files_bytes=revision.files_bytes, format_version=version,
            stamp=stamp(*parts_of(artifact.path))))
        return ExternalModel(server, slot)

    def bytes(self) -> int:
        """What servers that Shoal started take, as it was last looked at."""
        return sum(server.memory_bytes() for server in tuple(self._servers))

    def stop(self) -> None:
        """Every server that Shoal started ends; those that ran already are left. Blocking, for some
        seconds. May be called again."""
        self._stopping.set()
        with self._turn:
            servers, self._servers = self._servers, []
        if servers:
            with ThreadPoolExecutor(len(servers), "shoal-external-stop") as threads:
                list(threads.map(Server.close, servers))
        if self._watcher is not None:
            self._watcher.join(self._options.watch_s)

    def _server(self, serving: ServingRuntime) -> Server:
        with self._turn:
            if self._stopping.is_set():
                raise ShuttingDown(f"runtime {serving.name!r}: Shoal ends")
            for server in self._servers:
                if _reached_by(server.serving) == _reached_by(serving):
                    server.serving = serving
                    return server
            server = Server(serving, _opening(serving, self._options, self._stopping))
            self._servers.append(server)
            if self._watcher is None:
                self._watcher = threading.Thread(
                    target=self._watch, name="shoal-external-watch", daemon=True)
                self._watcher.start()
            return server

    def _watch(self) -> None:
        while not self._stopping.wait(self._options.watch_s):
            for server in tuple(self._servers):
                try:
                    server.watch()
                except Exception:  # nobody else would tell, and the others are to be watched
                    log.exception("a model server cannot be watched", runtime=server.name)


def brings_its_runtime(path: Path, options: Collection[str] = ()) -> bool:
    """Does the artifact say itself, to Triton or MLServer, what runs it, which may be any code; or
    do its options?"""
    return (
        is_triton_folder(path) or is_mlserver_folder(path)
        or not {"config", "implementation"}.isdisjoint(options)
    )


def _reached_by(serving: ServingRuntime) -> tuple[object, ...]:
    """What another server must be started for when it is declared otherwise."""
    return (serving.name, serving.interface, serving.serves, serving.command, serving.environment,
            serving.address, serving.management_address, serving.models_dir)


def _opening(serving: ServingRuntime, options: ExternalOptions, stopping: threading.Event
             ) -> Callable[[], Session]:
    try:
        from shoal.external.opening import Opening  # with grpcio: who does not use it needs none
    except ImportError as error:
        raise RuntimeMissing(
            f"runtime {serving.name!r} is spoken to with grpcio, which cannot be imported "
            f"({error}); install it: pip install 'shoal[external]'") from error
    return Opening(serving, options, stopping)
