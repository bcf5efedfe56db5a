"""A real etcd in a process of its own, for tests; Debian's package `etcd-server`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Self

from tests.ports import HeldPort

START_S = 30.0
# A lease lasts a second at least with these; with etcd's own, two.
_FAST = ("--heartbeat-interval", "20", "--election-timeout", "200")


class EtcdServer:
    """One member, its own cluster, on free ports of `host`, with a folder that goes when it
    stops. `url` is for `registry.url`.

    flags: more of etcd's, such as those of TLS, for which `scheme` is `https`.
    """

    def __init__(
        self, *flags: str, scheme: str = "http", host: str = "127.0.0.1"
    ) -> None:
        self._host = host
        self._folder = Path(tempfile.mkdtemp(prefix="etcd-"))
        self._flags = flags
        self._scheme = scheme
        self._process: subprocess.Popen[bytes] | None = None
        self._client, self._peer = HeldPort(host), HeldPort(host)
        self.start()

    @property
    def endpoint(self) -> str:
        return f"{self._host}:{self._client}"

    @property
    def url(self) -> str:
        return f"{'etcds' if self._scheme == 'https' else 'etcd'}://{self.endpoint}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, or start again on the same ports with the same data; come back when it answers."""
        assert self._process is None
        client = f"{self._scheme}://{self.endpoint}"
        peer = f"http://{self._host}:{self._peer}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, (
            self._folder / "log"
        ).open("ab") as log:
            told.bind(str(notices := self._folder / "notices"))
            told.settimeout(START_S)
            self._process = subprocess.Popen(
                [
                    "etcd", "--name", "one", "--data-dir", str(self._folder / "data"),
                    "--listen-client-urls", client, "--advertise-client-urls", client,
                    "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                    "--initial-cluster", f"one={peer}", *_FAST, *self._flags,
                ],
                stdout=log, stderr=log, env={**os.environ, "NOTIFY_SOCKET": str(notices)},
            )
            try:
                assert told.recv(100) == b"READY=1"  # as it tells systemd
            except TimeoutError:
                raise AssertionError(f"etcd did not start: {self.log()}") from None
            finally:
                notices.unlink()

    def kill(self) -> None:
        """As `kill -9`."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Killed and started again, with the same ports and data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """It keeps its connections and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # until all of its threads stand still

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Killed, and all its data is gone: a younger store in its place."""
        self.kill()
        shutil.rmtree(self._folder / "data")

    def stop(self) -> None:
        self._end(signal.SIGKILL)
        self._client.close()
        self._peer.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-4000:]

    def compact(self, revision: int) -> None:
        """Drop the history before `revision`."""
        self.call("kv/compaction", {"revision": revision, "physical": True})

    def put(self, key: str, value: str) -> int:
        """As another client would; the store's revision."""
        answer = self.call("kv/put", {"key": _base64(key), "value": _base64(value)})
        header = answer["header"]
        assert isinstance(header, dict)
        return int(header["revision"])

    def call(self, path: str, body: dict[str, object], token: str = "") -> dict[str, object]:
        """etcd's JSON API, for what clients of the registry do not do; plain connections only."""
        request = urllib.request.Request(
            f"http://{self.endpoint}/v3/{path}", json.dumps(body).encode(),
            {"Authorization": token} if token else {},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, object] = json.load(response)
            return answer

    def _end(self, signal_number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal_number)
            process.wait(timeout=30)


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()
