"""Real git repositories over HTTP: `git http-backend` behind a small server on 127.0.0.1, which
keeps large files as https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.http_server import Handler, HttpServer

_IDENTITY = {
    "GIT_AUTHOR_NAME": "T", "GIT_AUTHOR_EMAIL": "t@example.org", "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.org", "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


class GitServer:
    """password: of the user `reader`; empty: anybody may read. refuse: the status of every answer;
    0: none. stop_at: an answer to a path with this in it never comes, and `stopped` is set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = ""
        self.password = ""
        self.refuse = 0
        self.stop_at = ""
        self.stopped = threading.Event()
        self.ended = threading.Event()
        self.large: dict[str, bytes] = {}

    def uri(self, behind: str = "") -> str:
        return f"git+http://{self.host}/iris.git{behind}"

    def git(self, *arguments: str) -> str:
        """Runs it in the work tree of the repository."""
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder / "iris.git", check=True, capture_output=True,
            text=True, timeout=20, env={"PATH": os.environ["PATH"], **_IDENTITY})
        return done.stdout.strip()

    def commit(self, files: dict[str, bytes]) -> str:
        """A commit of these files on the branch that is checked out."""
        for name, data in files.items():
            path = self.folder / "iris.git" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "x")
        return self.git("rev-parse", "HEAD")

    def pointer(self, data: bytes) -> bytes:
        """What a repository has of a file that is kept apart."""
        digest = hashlib.sha256(data).hexdigest()
        self.large[digest] = data
        return (f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\n"
                f"size {len(data)}\n").encode()


class _Handler(Handler):
    of: GitServer

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_GET  # noqa: N815 -- the base class's names

    def _answer(self) -> None:
        of, parts = self.of, urlsplit(self.path)
        body = self._body()
        if of.stop_at and of.stop_at in self.path:
            of.stopped.set()
            of.ended.wait(20)
            self.close_connection = True
            return
        pair = b64encode(f"reader:{of.password}".encode()).decode()
        if of.refuse:
            self.send(of.refuse)
        elif of.password and self.headers.get("authorization") != f"Basic {pair}":
            self.send(401, WWW_Authenticate='Basic realm="test"')
        elif parts.path == "/iris.git/info/lfs/objects/batch":
            self._batch(json.loads(body))
        elif parts.path.startswith("/large/"):
            self.send(200, of.large[parts.path.removeprefix("/large/")])
        else:
            self._backend(parts.path, parts.query, body)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _batch(self, asked: dict[str, list[dict[str, object]]]) -> None:
        objects = [
            {**each, "actions": {"download": {"href": f"http://{self.of.host}/large/{each['oid']}"}}}
            if each["oid"] in self.of.large else
            {**each, "error": {"code": 404, "message": "Object does not exist"}}
            for each in asked["objects"]]
        self.send(200, json.dumps({"transfer": "basic", "objects": objects}).encode(),
                  Content_Type="application/vnd.git-lfs+json")

    def _backend(self, path: str, query: str, body: bytes) -> None:
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.of.folder),
            "GIT_HTTP_EXPORT_ALL": "1", "REQUEST_METHOD": self.command, "PATH_INFO": path,
            "QUERY_STRING": query, "CONTENT_TYPE": self.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)), "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""), **_IDENTITY,
        }
        done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, timeout=20,
                              check=False, env=environment)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        status = int(headers.pop("Status", "200").split()[0])
        self.send(status, content, **headers)


@contextmanager
def git_server(folder: Path) -> Iterator[GitServer]:
    """With the empty repository `iris.git`, whose branch is `main`."""
    of = GitServer(folder)
    (folder / "iris.git").mkdir(parents=True)
    of.git("init", "--quiet", "--initial-branch=main")
    with HttpServer(_Handler, of=of) as server:
        of.host = server.host
        try:
            yield of
        finally:
            of.ended.set()
