"""Another process that uses a disk cache, told what to do by lines of JSON and answering by them.

    python disk_cache_process.py ROOT BUDGET_BYTES

Its place is an HTTP server's files: a small client of the tests' own, with ranges.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from shoal.domain.errors import PlaceUnavailable, ShoalError
from shoal.storage.disk_cache import DiskCache, Held
from shoal.storage.download import Options, download
from shoal.storage.places.place import RemoteFile, Snapshot


class Web:
    ranges = True
    nested = True

    def __init__(self, host: str) -> None:
        self.host = host

    def look(self, uri: str) -> Snapshot:
        connection = http.client.HTTPConnection(self.host, timeout=10)
        connection.request("HEAD", urlsplit(uri).path)
        answer = connection.getresponse()
        connection.close()
        size = int(answer.headers["content-length"])
        return Snapshot(uri, (RemoteFile("", size, answer.headers["etag"]),))

    def read(
        self, snapshot: Snapshot, file: RemoteFile, start: int = 0, end: int | None = None
    ) -> Iterator[bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=10)
        try:
            last = "" if end is None else str(end - 1)
            connection.request(
                "GET", urlsplit(snapshot.uri).path, headers={"range": f"bytes={start}-{last}"})
            answer = connection.getresponse()
            if answer.status not in (200, 206):
                raise PlaceUnavailable(f"{snapshot.uri} answers {answer.status}")
            while chunk := answer.read(4096):
                yield chunk
        except http.client.HTTPException as error:
            raise PlaceUnavailable(f"{snapshot.uri}: {error!r}") from error
        finally:
            connection.close()


def fetch(cache: DiskCache, uri: str) -> Held:
    place = Web(urlsplit(uri).netloc)
    with cache.fetching(uri) as fetching:
        seen = place.look(uri)
        known = cache.recall(uri, seen.tag)
        held = cache.open(known) if known else None
        if held is None:
            fetching.reserve(seen.size_bytes or 0)
            folder = fetching.folder / "files"
            options = Options(threads=1, part_bytes=64 * 1024, first_wait_s=0.01)
            seen = download(place, seen, folder, options)
            held = fetching.adopt(folder)
            cache.remember(uri, seen.tag, held.digest)
        return held


def main() -> None:
    root, budget_bytes = Path(sys.argv[1]), int(sys.argv[2])
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    held: list[Held] = []
    with DiskCache(root, budget_bytes) as cache:
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            what, argument = json.loads(line)
            answer: object = None
            try:
                if what == "fetch":
                    held.append(fetch(cache, argument))
                    answer = held[-1].digest
                elif what == "open":
                    opened = cache.open(argument)
                    if opened is not None:
                        held.append(opened)
                        answer = hashlib.sha256(b"".join(
                            path.read_bytes() for path in sorted(opened.path.rglob("*"))
                        )).hexdigest()
                elif what == "release":
                    while held:
                        held.pop().release()
                elif what == "statistics":
                    answer = cache.statistics().size_bytes
            except ShoalError as error:
                answer = {type(error).__name__: error.message}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
