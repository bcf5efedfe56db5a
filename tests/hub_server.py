"""An HTTP server on 127.0.0.1 that answers as the Hugging Face Hub does, for one model, with a
second one in the part of its network for large files.

Written after the Hub's public documentation: https://huggingface.co/docs/hub/api (its OpenAPI
description: `/api/models/…/revision`, `…/tree`, `…/paths-info`, `…/resolve`), and what
https://huggingface.co/docs/huggingface_hub says of errors (`X-Error-Code`) and pages (`Link`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tests.http_server import Handler, HttpServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = 2  # entries; the Hub's has 1,000


@dataclass
class Refusal:
    """Answered instead, so many times, where `part` is part of the path."""

    part: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1


class Hub:
    """files: by path. large: those that are kept apart. token: without it the model is not shown;
    empty: anybody sees it. gated: its files are not given. ranges: are they understood?"""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.large: set[str] = set()
        self.revisions = {"main": COMMIT, "refs/pr/1": COMMIT}
        self.token = ""
        self.gated = False
        self.ranges = True
        self.refusals: list[Refusal] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.url = ""
        self.apart_url = ""

    def asked(self, part: str) -> list[dict[str, str]]:
        """The headers of the requests whose path has this in it."""
        return [headers for _, path, headers in self.seen if part in path]

    def entry(self, path: str) -> dict[str, object]:
        data = self.files[path]
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, object] = {"type": "file", "oid": blob, "size": len(data), "path": path}
        if path in self.large:
            digest = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
        return entry


class _Handler(Handler):
    hub: Hub
    apart: bool

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, body: bytes) -> None:
        hub, parts = self.hub, urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        hub.seen.append(("apart" if self.apart else "hub", self.path, headers))
        for refusal in hub.refusals:
            if refusal.part in self.path and refusal.times:
                refusal.times -= 1
                self.send(refusal.status, b"", **refusal.headers)
                return
        if self.apart:
            self._send_file(hub.files[unquote(parts.path[1:])])
        elif hub.token and headers.get("authorization") != f"Bearer {hub.token}":
            self.send(401, X_Error_Code="RepoNotFound")
        else:
            self._route(parts.path, parse_qs(parts.query), parse_qs(body.decode()))

    def _route(self, path: str, query: dict[str, list[str]], form: dict[str, list[str]]) -> None:
        hub = self.hub
        parts = path.lstrip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name != "acme/iris":
            self.send(404, X_Error_Code="RepoNotFound")
            return
        kind, revision, rest = (parts[4], parts[5], parts[6:]) if parts[0] == "api" else (
            parts[2], parts[3], parts[4:])
        inside = unquote("/".join(rest))
        commit = hub.revisions.get(unquote(revision), COMMIT if revision == COMMIT else "")
        if not commit:
            self.send(404, X_Error_Code="RevisionNotFound")
        elif kind == "revision":
            self._json({"_id": "1", "id": name, "sha": commit})
        elif kind == "paths-info":
            wanted = form["paths"][0]
            found = [hub.entry(wanted)] if wanted in hub.files else [
                {"type": "directory", "oid": "0" * 40, "size": 0, "path": wanted}
            ] if any(each.startswith(f"{wanted}/") for each in hub.files) else []
            self._json(found)
        elif kind == "tree":
            self._tree(path, inside, int(query.get("cursor", ["0"])[0]))
        elif inside not in hub.files:
            self.send(404, X_Error_Code="EntryNotFound")
        elif hub.gated:
            self.send(403, X_Error_Code="GatedRepo")
        elif inside in hub.large:
            self.send(302, Location=f"{hub.apart_url}/{inside}?X-Amz-Signature=secret")
        else:
            self._send_file(hub.files[inside])

    def _tree(self, path: str, inside: str, begin: int) -> None:
        above = f"{inside}/" if inside else ""
        paths = [each for each in self.hub.files if each.startswith(above)]
        entries = [self.hub.entry(each) for each in paths[begin:begin + PAGE]]
        more = {}
        if begin + PAGE < len(paths):
            more["Link"] = f'<{self.hub.url}{path}?cursor={begin + PAGE}>; rel="next"'
        self.send(200, json.dumps(entries).encode(), **more)

    def _send_file(self, data: bytes) -> None:
        if self.hub.ranges:
            self.send_part(data)
        else:
            self.send(200, data)

    def _json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), Content_Type="application/json")


@contextmanager
def hub_server(files: dict[str, bytes]) -> Iterator[Hub]:
    """A Hub with the model `acme/iris` of these files."""
    hub = Hub(files)
    with (HttpServer(_Handler, hub=hub, apart=False) as near,
          HttpServer(_Handler, hub=hub, apart=True) as apart):
        hub.url, hub.apart_url = near.url, apart.url
        yield hub
