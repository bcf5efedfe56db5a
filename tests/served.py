"""A real `shoal serve` in a process of its own, for tests that look from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx2
import psutil

import shoal

START_S = 60.0
ENOUGH_S = 30.0


def until(true: Callable[[], object], what: str, within_s: float = ENOUGH_S) -> None:
    """Come back as soon as `true()` is; fail after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)


class Served:
    """A server on free ports of 127.0.0.1, unless `arguments` say others. `logs`: what it logged,
    one object a line."""

    def __init__(self, *arguments: str | Path, data_dir: Path, environ: dict[str, str] | None = None
                 ) -> None:
        command = [
            str(Path(sys.executable).with_name("shoal")), "serve",
            "--http-port", "0", "--grpc-port", "0", "--management-port", "0",
            "--data-dir", str(data_dir), "--log-format", "json", "--log-level", "debug",
            *map(str, arguments),
        ]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environ or {})}
        )
        self.logs: list[dict[str, object]] = []
        self.other_lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until(lambda: self.find("serving") or self.process.poll() is not None, "a start", START_S)
        serving = self.find("serving")
        assert serving is not None, f"it did not start: {self.logs} {self.other_lines}"
        self.url, self.management = str(serving["http"]), str(serving["management"])
        self.grpc = str(serving["grpc"])
        self.client = shoal.Client(self.url, management=self.management)
        self.http = httpx2.Client(base_url=self.url, timeout=60)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.logs.append(json.loads(line))
            except ValueError:
                self.other_lines.append(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def find(self, event: str) -> dict[str, object] | None:
        return next((each for each in list(self.logs) if each.get("event") == event), None)

    def stop(self) -> int:
        """End it as Kubernetes would; its exit status."""
        self.client.close()
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status

    def resident_bytes(self) -> int:
        """Memory as the system sees it."""
        size: int = psutil.Process(self.process.pid).memory_info().rss
        return size

    def infer(self, model: str, body: dict[str, object], version: int | None = None
              ) -> httpx2.Response:
        at = f"/v2/models/{model}" + (f"/versions/{version}" if version else "")
        return self.http.post(at + "/infer", json=body)
