"""Unpacks tar (also gzip, and zstd where Python can) and zip archives that nobody vouches for.

What is written are files and folders below the target, and nothing else: no links, no devices, no
names that lead elsewhere or come twice, no permissions, owners or times out of the archive. All of
it is a stream; an archive that would unpack to more than the limits ends where it passes them. The
target appears at once, when all is there. Must not know where the archive came from.
"""

from __future__ import annotations

import gzip
import importlib
import io
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol, cast

from shoal.domain.errors import InvalidArtifact
from shoal.storage.files import MAX_FILES, readable_name
from shoal.storage.names import in_words, why_not_confined
from shoal.storage.writing import Inside, create, write_all, writing

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".zip")

_CHUNK_BYTES: Final = 1024 * 1024
_MAX_HEADER_BYTES: Final = 1024 * 1024  # a long name or a list of attributes; read into memory
_USTAR_AT: Final = 257
_VERSION: Final = re.compile(r"[1-9][0-9]*")
_ZIP_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # LZMA may ask for any memory
_TAR_KINDS: Final = {
    tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe",
}
# What the readers of the standard library raise on bytes that make no sense.
_UNREADABLE: Final = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, struct.error, EOFError,
    ValueError, LookupError, ArithmeticError, RuntimeError,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may come out of an archive.

    max_bytes: of all that is unpacked. max_ratio: times the archive's own size, from
    `ratio_from_bytes` on, since small files of zeros pack well. max_files: files and folders.
    """

    max_bytes: int = 1024**4
    max_ratio: float = 200.0
    ratio_from_bytes: int = 256 * 1024 * 1024
    max_files: int = MAX_FILES


def unpack(
    archive: Path,
    into: Path,
    limits: Limits | None = None,
    go_on: Callable[[], None] = lambda: None,
    keep: Callable[[str], str | None] = lambda name: name,
) -> None:
    """Unpack `archive` into the folder `into`, which must not exist, or be empty. Blocking.

    limits: None: the usual ones.
    go_on: called between chunks; what it raises ends the unpacking.
    keep: by what name a member is unpacked; None: not at all, and then it may be of any kind.

    Which kind of archive it is tell its bytes, not its name. Raises InvalidArtifact, which names
    the archive, the member and the reason; NoRoom for a full disk.
    """
    making = into.with_name(f"{into.name}.unpacking")
    with writing(into.parent):
        if making.exists():
            shutil.rmtree(making)
        making.mkdir(mode=0o700, parents=True)
        try:
            target = _Target(archive, making, limits or Limits(), go_on)
            with target.in_words(), open(archive, "rb") as source:
                _unpack(target, source, keep)
            os.replace(making, into)
        except BaseException:
            shutil.rmtree(making)
            raise


def root_of(folder: Path) -> Path:
    """Where what was unpacked into `folder` begins: `folder`, or the only thing in it where that
    is a folder (`tar czf iris.tgz iris`), unless its name is a model's version."""
    entries = list(folder.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and not _VERSION.fullmatch(entries[0].name):
        return entries[0]
    return folder


class _Target:
    """What is unpacked into, and what may still come."""

    def __init__(self, archive: Path, folder: Path, limits: Limits, go_on: Callable[[], None]
                 ) -> None:
        self._archive = archive
        self._inside = Inside(folder)
        self._limits = limits
        self.go_on = go_on
        self._member = ""
        self._members = 0
        self._bytes = 0
        by_ratio = limits.max_ratio * archive.stat().st_size
        self._allowed = min(limits.max_bytes, int(max(by_ratio, limits.ratio_from_bytes)))

    def refused(self, reason: str, way_out: str = "pack it anew") -> InvalidArtifact:
        at = f": {in_words(self._member)}" if self._member else ""
        return InvalidArtifact(f"the archive {readable_name(self._archive.name)}{at} {reason}; "
                               f"{way_out}")

    @contextmanager
    def in_words(self) -> Iterator[None]:
        try:
            yield
        except _UNREADABLE as error:
            raise self.refused(f"cannot be read: {error}", "upload it again") from error

    def next(self, name: str) -> None:
        """Another member begins, whatever it is."""
        self.go_on()
        self._member = name
        self._members += 1
        if self._members > self._limits.max_files:
            raise self.refused(f"is one of more than {self._limits.max_files:,} members",
                               "pack the model alone")

    def count(self, more: int) -> None:
        """So many bytes came out of the archive."""
        self._bytes += more
        if self._bytes > self._allowed:
            raise self.refused(
                f"unpacks to more than {self._allowed:,} bytes, the most that an archive of "
                f"{self._archive.stat().st_size:,} bytes may", "point to the files themselves")

    def folder(self, name: str) -> None:
        if not name:
            return
        self._check(name)
        try:
            self._inside.make_folder(name)
        except FileExistsError as error:
            raise self.refused("is a folder and a file at once") from error

    def file(self, name: str, source: IO[bytes]) -> None:
        self._check(name)
        try:
            descriptor = create(self._inside.path_of(name))
        except (FileExistsError, IsADirectoryError) as error:
            raise self.refused("comes twice, or is a folder and a file at once") from error
        at = 0
        try:
            while chunk := source.read(_CHUNK_BYTES):
                self.go_on()
                write_all(descriptor, chunk, at)
                at += len(chunk)
        finally:
            os.close(descriptor)

    def _check(self, name: str) -> None:
        if reason := why_not_confined(name):
            raise self.refused(reason)


class _Counted(io.RawIOBase):
    """What comes out of a decompressor, counted before it is used."""

    def __init__(self, source: IO[bytes], target: _Target) -> None:
        self._source = source
        self._target = target

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size)
        self._target.count(len(chunk))
        return chunk


class _Header(tarfile.TarInfo):
    """Refuses headers that would be read into memory whole, however large."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        kinds = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
                 tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if self.type in kinds and self.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header has {self.size:,} bytes")
        found = super()._proc_member(tar)  # type: ignore[misc]  # meant to be overridden
        return cast(tarfile.TarInfo, found)


def _unpack(target: _Target, source: IO[bytes], keep: Callable[[str], str | None]) -> None:
    head = source.read(_USTAR_AT + 5)
    source.seek(0)
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        _unpack_zip(target, source, keep)
    elif head[:2] == b"\x1f\x8b":
        with gzip.open(source) as plain:
            _unpack_tar(target, cast("IO[bytes]", plain), keep)
    elif head[:4] == b"\x28\xb5\x2f\xfd":
        zstd = _zstd(target)
        try:
            with zstd.open(source) as plain:
                _unpack_tar(target, plain, keep)
        except zstd.ZstdError as error:
            raise target.refused(f"cannot be read: {error}", "upload it again") from error
    elif head[_USTAR_AT:] == b"ustar":
        _unpack_tar(target, source, keep)
    else:
        raise target.refused(f"is none of {', '.join(SUFFIXES)}", "pack it as one of them")


def _unpack_tar(target: _Target, source: IO[bytes], keep: Callable[[str], str | None]) -> None:
    plain = cast("IO[bytes]", _Counted(source, target))
    with tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header, bufsize=_CHUNK_BYTES) as tar:
        for member in tar:
            target.next(member.name)
            name = keep(_plain_name(member.name))
            if name is None:
                continue
            if member.isdir():
                target.folder(name)
                continue
            if not member.isreg() or member.issparse():
                what = _TAR_KINDS.get(member.type, "neither a file nor a folder")
                raise target.refused(f"is {what}, which is not unpacked",
                                     "pack the files that it leads to (tar --dereference)")
            content = tar.extractfile(member)
            assert content is not None, member
            target.file(name, content)
    while plain.read(_CHUNK_BYTES):  # to its end, where the check sum is
        target.go_on()


def _unpack_zip(target: _Target, source: IO[bytes], keep: Callable[[str], str | None]) -> None:
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            target.next(member.orig_filename)
            if "\0" in member.orig_filename:
                raise target.refused("has a name that no file can have")
            name = keep(_plain_name(member.filename))
            if name is None:
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise target.refused("is a link or a device, which is not unpacked",
                                     "pack the files that it leads to")
            if member.is_dir():
                target.folder(name)
                continue
            if member.flag_bits & 1:
                raise target.refused("is encrypted", "pack it without a password")
            if member.compress_type not in _ZIP_METHODS:
                raise target.refused("is compressed in another way than deflate",
                                     "pack it with the usual method")
            with archive.open(member) as content:
                target.file(name, cast("IO[bytes]", _Counted(content, target)))


def _plain_name(name: str) -> str:
    """Without what says nothing: `./` before, `/` behind."""
    name = name.rstrip("/") if name.strip("/") else name
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return "" if name == "." else name


class _Zstd(Protocol):
    ZstdError: type[Exception]

    def open(self, file: IO[bytes]) -> IO[bytes]:
        """A stream of what is packed in `file`."""


def _zstd(target: _Target) -> _Zstd:
    """Python has it from 3.14 on; before, by a package of the same interface."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return cast(_Zstd, importlib.import_module(name))
        except ImportError:
            continue
    raise target.refused("is compressed with zstd, which this Python cannot read",
                         "install backports.zstd, or pack it with gzip")
