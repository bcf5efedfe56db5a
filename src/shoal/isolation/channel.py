"""Messages between two processes, one after the other's answer: over a pair of sockets, with large
tensors in memory that both share.

Each side asks or answers in turn, so a channel carries one call at a time; who wants several at
once takes several channels. Must not know what the messages mean.

    message   header's length u32, body's length u64, flags u8, place u8, kept u8; the header; the
              body, unless it lies in the sender's shared memory at that place

Shared memory is kept from call to call: mapping it anew costs more than copying twice through a
socket (of 16 MiB there and back: 30 ms anew, 7 ms by socket, 2 ms kept). Who reads gets views into
it. If some of them live on when it is its turn to send, it says so (`kept`, a bit a place), and the
other side takes its other place, or leaves that memory to the views and makes new one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from shoal.isolation.tensors import Layout, Piece

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SHARED_FROM_BYTES: Final = 64 * 1024  # smaller bodies are faster through the socket
KEPT_BYTES: Final = 64 * 1024**2  # larger shared memory is used for one message alone
MAX_PLAIN_BYTES: Final = 1024**3  # of a message that comes through the socket

_HEAD: Final = struct.Struct("<IQBBB")
_SHARED, _NEW, _WITH_DESCRIPTOR = 1, 2, 4
_PLACES: Final = 2  # the answer before is often still being sent to a client
_SCRATCH_BYTES: Final = 96 * 1024
_SOCKET_BUFFER_BYTES: Final = 512 * 1024
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_TIMEVAL: Final = struct.Struct("@ll")


class Ended(Exception):
    """The other side is gone, or says what cannot be."""


class Late(Exception):
    """The other side did not say or take anything in time."""


class Packed(NamedTuple):
    """A message that can be sent; it holds none of its tensors."""

    plain: bytearray  # with room for the head
    header_size: int
    body_size: int
    place: int | None = None  # None: the body is in `plain`
    descriptor: int | None = None  # of memory that is new there


class Received(NamedTuple):
    """body: the tensors are views into it. descriptor: that came along, for who receives it."""

    header: bytes
    body: NDArray[np.uint8]
    descriptor: int | None


class Channel:
    """One end. Not for several threads at once. Closes what it was given when it is closed."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(True)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)
        self._socket = end
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._mine: list[NDArray[np.uint8] | None] = [None] * _PLACES
        self._theirs: list[NDArray[np.uint8] | None] = [None] * _PLACES
        self._own_references = [0] * _PLACES
        self._kept = 0  # places of mine that the other side still reads

    def limit_waits(self, seconds: float) -> None:
        """From now on `send` and `receive` raise Late after so long; 0: never."""
        whole = int(seconds)
        value = _TIMEVAL.pack(whole, int((seconds - whole) * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, value)

    def hang_up(self) -> None:
        """End every `send` and `receive`, from any thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was faster

    def close(self) -> None:
        self._socket.close()
        self._mine = [None] * _PLACES
        self._theirs = [None] * _PLACES

    # --- sending --------------------------------------------------------------------------------

    def pack(self, tensors: Mapping[str, NDArray[np.generic]],
             header: Callable[[list[Piece]], bytes]) -> Packed:
        """A message of `tensors`, which are copied, and the header that is made of where they lie.
        Raises TypeError for tensors without a datatype."""
        layout = Layout(tensors)
        head = header(layout.pieces)
        if layout.size < SHARED_FROM_BYTES:
            start = _HEAD.size + len(head)
            plain = bytearray(start + layout.size)
            plain[_HEAD.size : start] = head
            layout.write(plain, start)
            return Packed(plain, len(head), layout.size)
        place, memory, descriptor = self._room(layout.size)
        layout.write(memory, 0)
        return Packed(bytearray(_HEAD.size) + head, len(head), layout.size, place, descriptor)

    def send(self, packed: Packed, descriptor: int | None = None) -> None:
        """What was packed last. descriptor: goes along, with a message without large tensors.
        Raises Ended, Late."""
        plain, place, new = packed.plain, packed.place, packed.descriptor
        flags = (
            (_SHARED if place is not None else 0) | (_NEW if new is not None else 0)
            | (_WITH_DESCRIPTOR if descriptor is not None else 0)
        )
        _HEAD.pack_into(
            plain, 0, packed.header_size, packed.body_size, flags, place or 0, self._still_read())
        along = descriptor if new is None else new
        try:
            sent = 0 if along is None else socket.send_fds(self._socket, [plain], [along])
            if sent < len(plain):
                self._socket.sendall(memoryview(plain)[sent:])
        except BlockingIOError as error:
            raise Late from error
        except OSError as error:
            raise Ended from error
        finally:
            if new is not None:
                os.close(new)

    def _room(self, size: int) -> tuple[int, NDArray[np.uint8], int | None]:
        """A place, its memory of at least `size` bytes, and a descriptor if that is new."""
        free = [place for place in range(_PLACES) if not self._kept >> place & 1]
        for place in free:
            memory = self._mine[place]
            if memory is not None and memory.size >= size:
                return place, memory, None
        place = free[0] if free else 0
        whole = 1 << (size - 1).bit_length() if size <= KEPT_BYTES else size
        descriptor = os.memfd_create("shoal-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, whole)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        memory = _mapped(descriptor, whole)
        self._mine[place] = memory if whole <= KEPT_BYTES else None
        return place, memory, descriptor

    def _still_read(self) -> int:
        """The places of the other side into which there are views here."""
        kept = 0
        for place in range(_PLACES):
            if self._theirs[place] is not None:
                kept |= (self._references(place) > self._own_references[place]) << place
        return kept

    # --- receiving ------------------------------------------------------------------------------

    def receive(self) -> Received:
        """The next message. Raises Ended, Late."""
        try:
            return self._receive()
        except BlockingIOError as error:
            raise Late from error
        except (OSError, ValueError) as error:
            raise Ended(str(error)) from error

    def _receive(self) -> Received:
        have, ancillary, _, _ = self._socket.recvmsg_into(
            [self._scratch], socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        )
        descriptor = _descriptor(ancillary)
        try:
            buffer = memoryview(self._scratch)
            have = self._fill(buffer, have, _HEAD.size)
            header_size, body_size, flags, place, kept = _HEAD.unpack_from(buffer)
            end = _HEAD.size + header_size + (0 if flags & _SHARED else body_size)
            if end > MAX_PLAIN_BYTES:
                raise ValueError(f"a message of {end:,} bytes")
            if end > len(buffer):
                whole = memoryview(bytearray(end))
                whole[:have] = buffer[:have]
                buffer = whole
            self._fill(buffer, have, end)
            self._kept = kept
            header = bytes(buffer[_HEAD.size : _HEAD.size + header_size])
            if flags & _SHARED:
                body = self._their_memory(place, descriptor if flags & _NEW else None, body_size)
            else:
                body = np.array(buffer[_HEAD.size + header_size : end], np.uint8)
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
        if descriptor is not None and not flags & _WITH_DESCRIPTOR:
            os.close(descriptor)
            descriptor = None
        return Received(header, body, descriptor)

    def _fill(self, buffer: memoryview, have: int, wanted: int) -> int:
        while have < wanted:
            got = self._socket.recv_into(buffer[have:], wanted - have)
            if not got:
                raise OSError("it hung up")
            have += got
        return have

    def _their_memory(self, place: int, descriptor: int | None, size: int) -> NDArray[np.uint8]:
        if place >= _PLACES:
            raise ValueError("a place that there is not")
        if descriptor is not None:
            if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise ValueError("shared memory that could shrink")
            whole = os.fstat(descriptor).st_size
            memory = _mapped(descriptor, whole)
            if whole > KEPT_BYTES:
                self._theirs[place] = None
                return memory[:size]
            self._theirs[place] = memory
            del memory
            self._own_references[place] = self._references(place)
        known = self._theirs[place]
        if known is None or size > known.size:
            raise ValueError("shared memory that is not there")
        return known[:size]

    def _references(self, place: int) -> int:
        return sys.getrefcount(self._theirs[place])


def _mapped(descriptor: int, size: int) -> NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(descriptor, size), np.uint8)


def _descriptor(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= 4:
            return int.from_bytes(data[:4], sys.byteorder)
    return None
