"""Model servers of which tests say every answer: their lines, their processes, and real sessions
and servers on them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shoal.codecs import protobuf
from shoal.domain.serving_runtime import ServingRuntime, SupportedFormat
from shoal.external import messages, session
from shoal.external.interface import CallFailed, Reported, ServerFailed, ToLoad
from shoal.external.model_runtime import ModelRuntime
from shoal.external.server import Server
from shoal.external.session import Limits, Session
from shoal.ports import Artifact
from shoal.storage.digest import parts_of
from shoal.storage.files import stamp

SERVING: Final = ServingRuntime(
    name="lines", formats=(SupportedFormat("linear"),), interface="model-runtime",
    address="127.0.0.1:9", idle_s=100.0)
ANSWER: Final = b"an answer"


class FakeLine:
    """Answers from `says` by the method's name: bytes, or an error to raise, or a function of the
    request. What it was asked is in `asked`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.says: dict[str, bytes | CallFailed | Callable[[bytes], bytes]] = {
            "loadModel": messages.write("LoadModelResponse", sizeInBytes=100),
            "unloadModel": b"",
            "ServerLive": b"",
            "ModelInfer": ANSWER,
        }
        self.revoked = threading.Event()

    def ask(self, path: str, request: bytes, timeout_s: float) -> bytes:
        name = path.rpartition("/")[2]
        if name == "loadModel":
            loaded = messages.message_class("LoadModelRequest").FromString(request)
            self.asked.append(f"load {loaded.modelId}")  # type: ignore[attr-defined]
        elif name == "unloadModel":
            loaded = messages.message_class("UnloadModelRequest").FromString(request)
            self.asked.append(f"unload {loaded.modelId}")  # type: ignore[attr-defined]
        else:
            self.asked.append(name)
        says = self.says.get(name, CallFailed("UNIMPLEMENTED", ""))
        if isinstance(says, CallFailed):
            raise says
        return says(request) if callable(says) else says

    ask_revocably = ask

    def revoke(self) -> None:
        self.revoked.set()

    def close(self) -> None:
        pass

    def loads(self, model: str) -> int:
        return self.asked.count(f"load {model}")


class FakeProcess:
    """Runs until `die`."""

    said = ""

    def __init__(self, started_at: float = 0.0) -> None:
        self.started_at = started_at
        self.bytes = 1000
        self.has_ended = False
        self.how = "runs"

    def die(self, how: str = "exited with status 3") -> None:
        self.has_ended, self.how = True, how

    def wait(self, timeout_s: float = 0.0) -> bool:
        return self.has_ended

    def memory_bytes(self) -> int:
        return self.bytes

    def kill(self, why: str) -> None:
        if not self.has_ended:
            self.die(why)

    def stop(self, grace_s: float) -> None:
        self.kill("was ended")


class World:
    """A server with fake lives. line: of all of them. process: of the running one. now: the
    server's clock."""

    def __init__(self, folder: Path, serving: ServingRuntime = SERVING, *, starts: bool = True,
                 max_loading: int = 1, capacity_bytes: int | None = None) -> None:
        self.folder = folder
        self.line = FakeLine()
        self.now = 0.0
        self.lives = 0
        self.fails = ""
        self.process: FakeProcess | None = None
        self.limits = Limits(max_loading, load_timeout_s=5.0, call_timeout_s=5.0, hang_s=10.0)
        self.reported = Reported(capacity_bytes=capacity_bytes)
        self._starts = starts
        self.server = Server(serving, self.open, lambda: self.now)

    def open(self) -> Session:
        self.lives += 1
        if self.fails:
            raise ServerFailed(self.fails)
        self.process = FakeProcess(self.now) if self._starts else None
        return Session(
            session.Server("lines", ModelRuntime(self.line, self.folder), self.line, self.line,
                           self.reported, self.process), self.limits)

    def model(self, name: str = "m", content: str = '{"weights": [1]}') -> ToLoad:
        path = self.folder / f"{name}.json"
        path.write_text(content)
        return ToLoad(
            id=name, artifact=Artifact(model=name, version=1, path=path, format="linear"),
            files_bytes=len(content), format_version="2", stamp=stamp(*parts_of(path)))


def ready(*, is_ready: bool) -> bytes:
    return protobuf.write("inference.ModelReadyResponse", {"ready": is_ready})
