"""Installs peers into virtual environments of their own, starts them, or says why one does not.

How each is started `peer_servers` knows.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import flowers
from benchmarks.peer_servers import Peer, Place
from benchmarks.processes import Running, running, wait

START_S = 120.0
ENVIRONMENTS = Path("~/.cache/shoal-benchmarks").expanduser()


def install(peer: Peer, environment: Path) -> None:
    """Into a virtual environment, unless that was done before. Raises CalledProcessError."""
    done = environment / "installed.txt"
    wanted = "\n".join(peer.requirements)
    if done.exists() and done.read_text() == wanted:
        return
    print(f"installing {peer.name} into {environment}", flush=True)
    python = str(environment / "bin" / "python")
    for command in (
        [peer.python, "-m", "venv", str(environment)],
        [python, "-m", "pip", "install", "--quiet", *peer.requirements],
    ):
        subprocess.run(command, check=True, capture_output=True, text=True)
    done.write_text(wanted)


@contextmanager
def started(peer: Peer, environments: Path, processors: set[int]) -> Iterator[Running]:
    """The peer, installed and answering. Raises RuntimeError, CalledProcessError or OSError when it
    does not."""
    environment = environments / peer.name
    install(peer, environment)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(environment, Path(folder), free_port(), free_port())
        place.model.write_bytes(flowers.model_bytes())
        log = Path(folder) / "log"
        command = ["env", f"FLOWERS={place.model}", *peer.command(place)]
        with running(command, log, processors=processors, folder=place.folder) as child:
            wait(lambda: answers(place.http_port, peer.request), child, log, START_S)
            yield Running(child.pid, place.http_port, place.grpc_port, 0)


def answers(port: int, request: bytes) -> bool:
    """Whether the request is answered with 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(request)
            return sock.recv(65536).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if line.startswith("ERROR")]
        return f"does not install: {' '.join(lines[-2:]) or error}"
    return str(error)
