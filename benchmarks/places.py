"""What lies in an object store: downloaded beside boto3's own transfer, and loaded for the first
time, from the disk cache and from a path.

    python -m benchmarks places [--large-mib 512] [--files 500] [--rounds 3] [--endpoint URL]

An S3 API over HTTP on this machine, moto's server unless `--endpoint` names another (with the keys
of the environment). One large file, and many of 64 KiB, are downloaded into empty folders by turns:
by `storage.download` with the settings' defaults, and by boto3's TransferManager with as many
connections and parts as large. Then an ONNX model of 64 MiB is loaded as an instance does that has
never seen it, again from its disk cache, and from a path; and a second model with the same files is
declared. The last line is JSON: MiB/s, files/s, milliseconds, and bytes on disk over bytes of both
models.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.format_models import make
from benchmarks.peer_environments import free_port
from shoal.domain.model import ModelSpec, Revision
from shoal.node.loader import Loader
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.declare import declare
from shoal.storage.disk_cache import DiskCache
from shoal.storage.download import Options, download
from shoal.storage.fetching import Fetching
from shoal.storage.places.credentials import Credentials, FileSource

if TYPE_CHECKING:
    from shoal.ports import LoadedModel

MIB: Final = 1024**2
SMALL_BYTES: Final = 64 * 1024
MODEL_SIZE: Final = 20.0  # 64 MiB
BUCKET: Final = "places"
PART_BYTES: Final = Options().part_bytes
CONNECTIONS: Final = Options().threads


class Store:
    """An S3 API with a bucket of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        import boto3

        keys = {"access_key_id": os.environ.get("AWS_ACCESS_KEY_ID", "AKIATEST"),
                "secret_access_key": os.environ.get("AWS_SECRET_ACCESS_KEY", "secret")}
        self.client: Any = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1",
            **{f"aws_{name}": value for name, value in keys.items()})
        self.client.create_bucket(Bucket=BUCKET)
        config = folder / "storage-config"
        config.write_text(json.dumps({"default_s3": {
            "type": "s3", "endpoint_url": url, "region": "us-east-1", **keys}}))
        self.credentials = Credentials([FileSource(config)])

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def fetching(self, folder: Path) -> Fetching:
        return Fetching(lambda: DiskCache(folder, 64 * 1024 * MIB), self.credentials)


@contextmanager
def moto() -> Iterator[str]:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError("moto's server did not start; pip install moto[s3,server]"
                                       ) from None
                time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large-mib", type=int, default=512)
    parser.add_argument("--files", type=int, default=500, help="of 64 KiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--endpoint", help="of another S3 API")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.endpoint:
            figures = measure(Store(options.endpoint, Path(folder)), Path(folder), options)
        else:
            with moto() as url:
                figures = measure(Store(url, Path(folder)), Path(folder), options)
    print(json.dumps(figures))


def measure(store: Store, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    rng = np.random.default_rng(0)
    store.put("large/weights.bin", rng.bytes(options.large_mib * MIB))
    for number in range(options.files):
        store.put(f"many/{number:05}.bin", rng.bytes(SMALL_BYTES))
    figures: dict[str, float] = {}
    for what, count, unit in (("large", options.large_mib, "mib_s"),
                              ("many", options.files, "files_s")):
        ours, theirs = in_turns(store, what, folder, options.rounds)
        figures[f"{what}_shoal_{unit}"] = round(count / ours, 1)
        figures[f"{what}_boto3_{unit}"] = round(count / theirs, 1)
        print(f"{what:>6}  shoal {count / ours:8.1f} {unit}   boto3 {count / theirs:8.1f} {unit}",
              flush=True)
    figures |= loads(store, folder)
    return figures


# --- downloads ----------------------------------------------------------------------------------


def in_turns(store: Store, what: str, folder: Path, rounds: int) -> tuple[float, float]:
    """Seconds of ours and of boto3's, the medians."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(timed(lambda into: by_shoal(store, what, into), folder))
        theirs.append(timed(lambda into: by_boto3(store, what, into), folder))
    return statistics.median(ours), statistics.median(theirs)


def timed(act: Callable[[Path], None], folder: Path) -> float:
    into = folder / "into"
    started = time.perf_counter()
    act(into)
    took_s = time.perf_counter() - started
    shutil.rmtree(into)
    return took_s


def by_shoal(store: Store, what: str, into: Path) -> None:
    with closing(store.fetching(into.parent / "unused")) as fetching:
        found = fetching.look(f"s3://{BUCKET}/{what}")
        download(found.place, found.snapshot, into)  # type: ignore[arg-type]


def by_boto3(store: Store, what: str, into: Path) -> None:
    """Listed, downloaded side by side, and written through, as ours is."""
    from s3transfer.manager import TransferConfig, TransferManager

    into.mkdir()
    pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{what}/")
    keys = [each["Key"] for page in pages for each in page["Contents"]]
    config = TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES,
        max_request_concurrency=CONNECTIONS)
    with TransferManager(store.client, config) as transfer:
        paths = [into / Path(key).name for key in keys]
        for future in [transfer.download(BUCKET, key, str(path))
                       for key, path in zip(keys, paths, strict=True)]:
            future.result()
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())


# --- loads --------------------------------------------------------------------------------------


def loads(store: Store, folder: Path) -> dict[str, float]:
    path = make("onnx", folder / "net", MODEL_SIZE)
    content = path.read_bytes()
    for name in ("one", "two"):
        store.put(f"models/{name}/model.onnx", content)
    runtimes = RuntimeRegistry.installed()
    spec = ModelSpec(name="one", uri=f"s3://{BUCKET}/models/one")
    with closing(store.fetching(folder / "first")) as fetching:
        there = declare(spec, runtimes, registered_at=0.0, elsewhere=fetching).revisions[0]
        started = time.perf_counter()
        other = ModelSpec(name="two", uri=f"s3://{BUCKET}/models/two")
        declare(other, runtimes, registered_at=0.0, elsewhere=fetching)
        second_s = time.perf_counter() - started
    stored = sum({found.st_ino: found.st_blocks * 512 for file in (folder / "first").rglob("*")
                  if stat.S_ISREG((found := file.lstat()).st_mode)}.values())
    here = declare(ModelSpec(name="here", uri=str(path.parent)), runtimes,
                   registered_at=0.0).revisions[0]
    warm = Loader(runtimes, (), (), 1)
    took(warm, here)  # imports the framework
    with closing(store.fetching(folder / "other")) as fetching:
        loader = Loader(runtimes, (), (), 1, fetching)
        figures = {
            "first_load_ms": took(loader, there), "cached_load_ms": took(loader, there),
            "local_load_ms": took(Loader(runtimes, (), (), 1), here),
            "second_declared_ms": round(second_s * 1e3, 1),
            "stored_over_both": round(stored / (2 * len(content)), 3),
        }
    for name, value in figures.items():
        print(f"{name:>20} {value:10.1f}")
    return figures


def took(loader: Loader, revision: Revision) -> float:
    """Milliseconds of a load, the digest of files that were not checked before included."""
    started = time.perf_counter()
    model: LoadedModel = loader.load(revision).model
    took_s = time.perf_counter() - started
    loader.close(model)
    return round(took_s * 1e3, 1)


if __name__ == "__main__":
    main()
