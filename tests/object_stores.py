"""Object stores over HTTP on 127.0.0.1: moto's S3, and least servers of Google's XML API and of
Azure's Blob service, as far as listing and reading go, that refuse, and list in pages, as a test
says (`tests.azurite` is Microsoft's own)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from tests.http_server import Handler, HttpServer

if TYPE_CHECKING:
    from moto.s3.models import S3Backend

KEYS = {"access_key_id": "AKIATEST", "secret_access_key": "s3cr3t-of-the-test"}

_WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_IDENTITIES = ("AWS_", "GOOGLE_", "AZURE_", "AZ_", "S3_", "STORAGE_EMULATOR_HOST",
               "awsAnonymousCredential")


class S3Server:
    """moto's S3. Objects are put without HTTP, which takes moto 5 ms each."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self._buckets = 0

    def bucket(self, objects: Mapping[str, bytes] | None = None) -> str:
        """The name of a new bucket with these objects."""
        self._buckets += 1
        name = f"bucket{self._buckets}"  # moto does not decode the %2D that clients send
        self._backend().create_bucket(name, "us-east-1")
        for key, value in (objects or {}).items():
            self.put(name, key, value)
        return name

    def put(self, bucket: str, key: str, value: bytes) -> None:
        self._backend().put_object(bucket, key, value)

    def delete(self, bucket: str, key: str) -> None:
        self._backend().delete_object(bucket, key)

    def publish(self, bucket: str, *keys: str) -> None:
        """Anybody may read these; without keys, list them."""
        from moto.s3.models import get_canned_acl

        public = get_canned_acl("public-read")
        if not keys:
            self._backend().put_bucket_acl(bucket, public)
        for key in keys:
            self._backend().put_object_acl(bucket, key, public)

    def stop(self) -> None:
        self._server.stop()

    def _backend(self) -> S3Backend:
        from moto.s3.models import s3_backends

        return s3_backends["123456789012"]["aws"]


class BlobServer(HttpServer):
    """Objects of Google and, as far as that is the same, of Amazon (`/BUCKET/KEY`), and of Azure
    (`/ACCOUNT/CONTAINER/KEY`, account `azure`). page: objects a page of a listing. refuse: the
    status that every request gets."""

    def __init__(self, page: int = 1000) -> None:
        self.page = page
        self.refuse = 0
        self.objects: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        super().__init__(_BlobHandler, of=self)


class _BlobHandler(Handler):
    of: BlobServer

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.of.requests.append((self.command, self.path, dict(self.headers.items())))
        path = unquote(parts.path).lstrip("/")
        azure = path.startswith("azure/")
        bucket, _, key = path.removeprefix("azure/").partition("/")
        objects = self.of.objects.get(bucket)
        if self.of.refuse:
            self.send(self.of.refuse, _error("AuthenticationFailed"))
        elif objects is None:
            self.send(404, _error("ContainerNotFound" if azure else "NoSuchBucket"))
        elif not key:
            self._list(objects, query, azure=azure)
        elif key not in objects:
            self.send(404, _error("BlobNotFound" if azure else "NoSuchKey"))
        else:
            self._object(objects[key])

    do_GET = do_HEAD = _serve  # noqa: N815

    def do_POST(self) -> None:
        """Amazon's token service: who shows a web identity takes its role."""
        self.of.requests.append((self.command, self.path, dict(self.headers.items())))
        self.send(200, _ROLE)

    def _list(self, objects: dict[str, bytes], query: dict[str, str], *, azure: bool) -> None:
        token = "marker" if azure else "continuation-token"
        after = query.get(token, "")
        keys = sorted(key for key in objects
                      if key.startswith(query.get("prefix", "")) and key > after)
        page, more = keys[: self.of.page], keys[self.of.page :]
        following = page[-1] if more else ""
        make = _azure_list if azure else _google_list
        self.send(200, make({key: objects[key] for key in page}, following))

    def _object(self, value: bytes) -> None:
        tag = _etag(value)
        if self.headers.get("If-Match", tag) != tag:
            self.send(412, _error("ConditionNotMet"))
            return
        self.send_part(value, ETag=tag, Last_Modified=format_datetime(_WHEN, usegmt=True))


_ROLE = (
    b"<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
    b"<AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>x</SecretAccessKey>"
    b"<SessionToken>of-the-role</SessionToken><Expiration>2036-01-02T03:04:05Z</Expiration>"
    b"</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
)


def _etag(value: bytes) -> str:
    return f'"{hashlib.md5(value).hexdigest()}"'  # as the services do


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>sig=secret-in-a-message</Message></Error>".encode()


def _google_list(objects: dict[str, bytes], following: str) -> bytes:
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
        f"<ETag>{escape(_etag(value))}</ETag><Size>{len(value)}</Size></Contents>"
        for key, value in objects.items())
    token = f"<NextContinuationToken>{quote(following)}</NextContinuationToken>"
    return (f"<ListBucketResult>{contents}{token if following else ''}"
            "</ListBucketResult>").encode()


def _azure_list(objects: dict[str, bytes], following: str) -> bytes:
    """Its tags have no quotes here, and have in headers."""
    blobs = "".join(
        f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>"
        f"{format_datetime(_WHEN, usegmt=True)}</Last-Modified><Etag>{_etag(value)[1:-1]}</Etag>"
        f"<Content-Length>{len(value)}</Content-Length><Content-Type>application/octet-stream"
        "</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
        for key, value in objects.items())
    return (f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{blobs}</Blobs>'
            f"<NextMarker>{escape(following)}</NextMarker></EnumerationResults>").encode()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """For tests that keep to buckets of their own."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def blob_server() -> Iterator[BlobServer]:
    with BlobServer() as server:
        yield server


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing tells this process who it is to an object store."""
    import os

    for name in list(os.environ):
        if name.startswith(_IDENTITIES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
