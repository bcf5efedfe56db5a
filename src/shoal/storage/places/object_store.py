"""Lists and reads the objects of S3, Google Cloud Storage and Azure Blob Storage, by obstore.

    s3://BUCKET/KEY
    gs://BUCKET/KEY
    az://CONTAINER/KEY, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/KEY,
    https://ACCOUNT.blob.core.windows.net/CONTAINER/KEY

A key that is an object is a lone file; else it is a folder: what begins with it and a `/`. With a
`/` at its end it is always a folder. Looking is tried again where a server fails, reading is not:
who reads knows how far it came.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NoReturn

from shoal.domain.errors import (
    ArtifactChanged,
    ArtifactMissing,
    InvalidArtifact,
    PlaceDenied,
    PlaceUnavailable,
    ShoalError,
)
from shoal.storage.archives import SUFFIXES
from shoal.storage.names import folders_above, shown, why_not_confined
from shoal.storage.places.ambient import METADATA_HOSTS, has_identity
from shoal.storage.places.buckets import Bucket, Patience, Wish, bucket_of, make_store
from shoal.storage.places.credentials import Access
from shoal.storage.places.place import RemoteFile, Snapshot
from shoal.storage.places.reach import Reach

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta

    from shoal.storage.places.buckets import Store

_CHUNK_BYTES: Final = 256 * 1024
_MAX_STORES: Final = 64
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>(\w{1,64})</Code>")
_IN_WORDS: Final = (
    ("dns error", "its name cannot be resolved"),
    ("Connection refused", "it refuses connections"),
    ("InvalidCertificate",
     "its certificate is not trusted (a private authority's "
     "can be given in the credentials, or in storage.ca_file)"),
    ("TimedOut", "it did not answer in time"),
    ("kind: Timeout", "it did not answer in time"),
    ("builder error", "the endpoint is no URL that may be used"),
    ("Interrupted", "the connection was cut"),
    ("kind: Connect", "no connection can be made"),
)


@dataclass(slots=True)
class _Stores:
    """The connections to one bucket."""

    wish: Wish
    _looking: Store | None = None
    _reading: Store | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def looking(self) -> Store:
        with self.lock:
            if self._looking is None:
                self._looking = make_store(self.wish)
            return self._looking

    def reading(self) -> Store:
        with self.lock:
            if self._reading is None:
                patience = replace(self.wish.patience, retries=0)
                self._reading = make_store(replace(self.wish, patience=patience))
            return self._reading


class _NoIdentity(Exception):
    """Nobody told this process who it is."""


class _OtherRegion(Exception):
    """The bucket may be elsewhere: says what was answered."""


class ObjectStore:
    """access: whose credentials; None: the environment's, the profile's, or the machine's
    identity; where there are none, nobody's. nested: False for signed URIs, whose signature must
    stay at their end."""

    ranges = True

    def __init__(self, access: Access | None = None, patience: Patience | None = None, *,
                 nested: bool = True, reach: Reach | None = None) -> None:
        self.nested = nested
        self._reach = reach or Reach()
        self._access = access
        self._patience = patience or Patience()
        self._stores: OrderedDict[Bucket, _Stores] = OrderedDict()
        self._lock = threading.Lock()

    def look(self, uri: str) -> Snapshot:
        bucket, key = bucket_of(uri, self._access)
        while True:
            stores = self._of(bucket)
            wish = stores.wish
            try:
                return Snapshot(uri, self._files(uri, stores.looking(), key))
            except _NoIdentity:
                if wish.anonymous:
                    raise self._denied(uri, "no credentials were found") from None
                self._replace(bucket, replace(wish, anonymous=True))
            except _OtherRegion as error:
                region = "" if wish.region else _region_of(bucket, wish)
                if not region:
                    raise self._denied(uri, str(error)) from None
                self._replace(bucket, replace(wish, region=region))
            except PlaceDenied as error:
                if not (wish.anonymous and self._access is None):
                    raise
                self._forget(bucket)
                raise self._denied(uri, "no credentials were found, and without any it refuses "
                                        "to be read") from error

    def read(
        self, snapshot: Snapshot, file: RemoteFile, start: int = 0, end: int | None = None
    ) -> Iterator[bytes]:
        import obstore

        bucket, key = bucket_of(snapshot.uri, self._access)
        path = f"{key.rstrip('/')}/{file.name}".lstrip("/") if file.name else key
        options: GetOptions = {}
        if file.tag:
            options["if_match"] = f'"{file.tag}"' if not file.tag.startswith("W/") else None
        if end is not None and end <= start:
            return
        if end is not None and end != file.size_bytes:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        try:
            found = obstore.get(self._of(bucket).reading(), path, options=options)
            _check_same(snapshot, file, found)
            for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
                yield bytes(chunk)
        except ShoalError:
            raise
        except FileNotFoundError:
            raise _changed(snapshot, file, "is gone") from None
        except Exception as error:  # noqa: BLE001  # obstore raises several kinds; all are told
            try:
                self._raise(_name(snapshot, file), error, reading=True)
            except _NoIdentity:
                raise self._denied(snapshot.uri, "no credentials were found") from None
            except _OtherRegion as other:
                raise self._denied(snapshot.uri, str(other)) from None

    def _of(self, bucket: Bucket) -> _Stores:
        with self._lock:
            known = self._stores.get(bucket)
            if known is not None:
                self._stores.move_to_end(bucket)
                return known
        nobody = self._access is None and not bucket.signature and not has_identity(bucket.kind)
        stores = _Stores(Wish(
            bucket, self._access, self._patience, anonymous=nobody,
            authorities=self._reach.authorities))
        with self._lock:
            if len(self._stores) >= _MAX_STORES:
                self._stores.popitem(last=False)
            return self._stores.setdefault(bucket, stores)

    def _replace(self, bucket: Bucket, wish: Wish) -> None:
        with self._lock:
            self._stores[bucket] = _Stores(wish)

    def _forget(self, bucket: Bucket) -> None:
        with self._lock:
            self._stores.pop(bucket, None)

    def _files(self, uri: str, store: Store, key: str) -> tuple[RemoteFile, ...]:
        lone: ObjectMeta | None = None
        denied: PlaceDenied | None = None
        if key and not key.endswith("/"):
            try:
                lone = self._head(uri, store, key)
            except PlaceDenied as error:  # S3 says so of what is missing too, without a right
                denied = error
        # Where files lie below it, an empty object stands for their folder.
        files = () if lone is not None and lone["size"] else (
            self._below(uri, store, key.rstrip("/")))
        if files:
            return files
        if lone is not None:
            return (_remote_file(lone, "", archive=key.lower().endswith(SUFFIXES)),)
        if denied is not None:
            raise denied
        raise ArtifactMissing(
            f"{shown(uri)} does not exist: there is neither an object of that key nor any below "
            "it; put the artifact there, or correct the URI")

    def _head(self, uri: str, store: Store, key: str) -> ObjectMeta | None:
        import obstore

        try:
            return obstore.head(store, key)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001  # obstore raises several kinds; all are told
            self._raise(shown(uri), error)

    def _below(self, uri: str, store: Store, folder: str) -> tuple[RemoteFile, ...]:
        import obstore

        objects: dict[str, ObjectMeta] = {}
        try:
            for page in obstore.list(store, prefix=folder or None, chunk_size=1000):
                objects.update((each["path"], each) for each in page)
        except Exception as error:  # noqa: BLE001  # obstore raises several kinds; all are told
            self._raise(shown(uri), error)
        objects.pop(folder, None)
        for marker in _markers(store, objects):
            del objects[marker]
        files = []
        for path in sorted(objects):
            name = path[len(folder) + 1 :] if folder else path
            if reason := why_not_confined(name):
                raise InvalidArtifact(f"{shown(uri)}: the object {path!r} {reason}; rename it")
            files.append(_remote_file(objects[path], name))
        return tuple(files)

    def _denied(self, uri: str, reason: str) -> PlaceDenied:
        whose = f"credentials {self._access.name!r}" if self._access is not None else (
            "the server's own identity")
        return PlaceDenied(
            f"{shown(uri)} may not be read with {whose}: {reason}; grant the right to list and to "
            "read it, or name other credentials")

    def _raise(self, name: str, error: Exception, *, reading: bool = False) -> NoReturn:
        """obstore's error in our words: its own text may quote URLs with signatures."""
        from obstore import exceptions

        text = str(error)
        status_text = _STATUS.search(text)
        status = int(status_text.group(1)) if status_text else 0
        code = _CODE.search(text)
        said = f" ({code.group(1)})" if code else ""
        first = text.partition("\n")[0]
        if any(host in first for host in METADATA_HOSTS):
            raise _NoIdentity from None
        if "token request" in first and status in (400, 401, 403):
            raise self._denied(name, f"its token was refused with {status}") from None
        if isinstance(error, exceptions.PreconditionError) or (reading and status == 416):
            raise ArtifactChanged(f"{name} is not what it was when it was listed; it is looked at "
                                  "anew") from None
        if isinstance(error, exceptions.InvalidPathError):
            raise InvalidArtifact(f"{name} holds objects whose keys have empty parts, '.' or "
                                  "'..', which are no files; rename them") from None
        if "redirect without LOCATION" in text or status == 301:
            raise _OtherRegion("it lies in another region, which the credentials or AWS_REGION "
                               "must name") from None
        if status == 400 and text.startswith("Generic S3") and not reading:
            raise _OtherRegion(f"it answers 400{said}: the keys or the token are no more valid, or "
                               "it lies in another region") from None
        if status in (401, 403) or isinstance(
                error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
            raise self._denied(name, f"it answers {status or 403}{said}") from None
        if status == 404:
            raise ArtifactMissing(
                f"{name} does not exist{said}; correct the URI, or create it") from None
        reason = f"it answers {status}{said}" if status else next(
            (words for sign, words in _IN_WORDS if sign in text), "the request failed")
        raise PlaceUnavailable(f"{name} cannot be read now: {reason}; it is tried again") from None


def _markers(store: Store, objects: dict[str, ObjectMeta]) -> list[str]:
    """What stands for a folder: an empty object whose key ends with `/`. Which obstore cuts off, so
    it is told by there being files below it, or no object of the key without."""
    import obstore

    empty = [path for path, each in objects.items() if not each["size"]]
    above = {folder for path in objects for folder in folders_above(path)}
    markers = [path for path in empty if path in above]
    unknown = [path for path in empty if path not in above]

    def is_marker(path: str) -> bool:
        try:
            obstore.head(store, path)
        except FileNotFoundError:
            return True
        except Exception:  # noqa: BLE001  # then it stays a file, and reading it tells
            return False
        return False

    if unknown:
        with ThreadPoolExecutor(min(8, len(unknown)), thread_name_prefix="look") as pool:
            answers = list(pool.map(is_marker, unknown))
        markers += [path for path, answer in zip(unknown, answers, strict=True) if answer]
    return markers


def _remote_file(found: ObjectMeta, name: str, *, archive: bool = False) -> RemoteFile:
    return RemoteFile(name, found["size"], _tag(found), None,
                      found["last_modified"].timestamp(), archive)


def _tag(found: ObjectMeta) -> str:
    """Without its quotes, which Azure gives only sometimes."""
    return (found["e_tag"] or found["version"] or "").strip('"')


def _check_same(snapshot: Snapshot, file: RemoteFile, found: GetResult) -> None:
    """For what does not know conditions."""
    if found.meta["size"] != file.size_bytes or _tag(found.meta) not in ("", file.tag):
        raise _changed(snapshot, file, "is not what it was when it was listed")


def _changed(snapshot: Snapshot, file: RemoteFile, story: str) -> ArtifactChanged:
    return ArtifactChanged(f"{_name(snapshot, file)} {story}; it is looked at anew")


def _name(snapshot: Snapshot, file: RemoteFile) -> str:
    uri = shown(snapshot.uri)
    return f"{uri.rstrip('/')}/{file.name}" if file.name else uri


def _region_of(bucket: Bucket, wish: Wish) -> str:
    """S3 tells it to anybody, beside its refusal. Empty: it did not."""
    import httpx2

    given = wish.access.get("endpoint_url") if wish.access is not None else (
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    endpoint = given or "https://s3.us-east-1.amazonaws.com"
    try:
        answer = httpx2.head(f"{endpoint.rstrip('/')}/{bucket.name}", follow_redirects=False,
                             timeout=wish.patience.connect_s)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError):
        return ""
    region: str = answer.headers.get("x-amz-bucket-region", "")
    return region if re.fullmatch(r"[a-z0-9-]{1,32}", region) else ""
