"""Addresses of instances, how they are dialled, and what the settings say about links."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from pathlib import Path

import pytest

from shoal.dataplane.peer import LinkOptions, PeerLink, TlsFiles, link_options, tls_files
from shoal.dataplane.peer.addresses import TcpAddress, UnixAddress, read_address
from shoal.dataplane.peer.dialling import Dialling
from shoal.domain.errors import InvalidSpecification
from shoal.settings import MeshSettings


@pytest.mark.parametrize(("text", "address"), [
    ("unix:/run/b.sock", UnixAddress("/run/b.sock")),
    ("tcp:b.example:8083", TcpAddress("b.example", 8083)),
    ("tcp:[::1]:0", TcpAddress("::1", 0)),
])  # fmt: skip
def test_an_address_is_read_and_written_alike(
    text: str, address: UnixAddress | TcpAddress
) -> None:
    assert read_address(text) == address
    assert str(address) == text


def test_tcp_need_not_be_said() -> None:
    assert read_address("10.0.0.5:8083") == TcpAddress("10.0.0.5", 8083)


@pytest.mark.parametrize("text", [
    "", "host", "host:", ":80", "host:70000", "host:-1", "host:²", "a..b:80", "unix:", "tcp:",
])  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpecification, match="write "):
        read_address(text)


def test_without_files_there_is_no_tls() -> None:
    assert tls_files(MeshSettings()) is None


def test_all_files_make_tls() -> None:
    settings = MeshSettings(cert_file="/c.pem", key_file="~/k.pem", ca_file="/a.pem")
    assert tls_files(settings) == TlsFiles(
        Path("/c.pem"), Path("~/k.pem").expanduser(), Path("/a.pem")
    )


def test_some_files_are_an_error_that_names_the_others() -> None:
    with pytest.raises(InvalidSpecification, match=r"also needs mesh.key_file and mesh.ca_file"):
        tls_files(MeshSettings(cert_file="/c.pem"))


def test_a_link_is_asked_three_times_before_it_is_cut() -> None:
    options = link_options(MeshSettings(silence_s=6), 5 * 1024**3)
    assert (options.ping_s, options.silent_looks) == (2, 3)
    assert options.limits.max_body_bytes == 5 * 1024**3


async def test_dialling_waits_longer_and_longer_and_tells_what_is_new() -> None:
    loop = asyncio.get_running_loop()
    enough: asyncio.Future[None] = loop.create_future()
    attempts: list[float] = []
    told: list[str] = []
    errors = [
        ConnectionRefusedError(111, "Connection refused"), ConnectionRefusedError(111, "Refused"),
        TimeoutError(), ssl.SSLError(1, "[SSL: NO_CIPHERS] nothing in common"),
    ]  # fmt: skip

    async def dial() -> PeerLink:
        attempts.append(loop.time())
        if len(attempts) == 8:
            enough.set_result(None)
        raise errors[min(len(attempts) // 2, 3)]

    options = LinkOptions(redial_least_s=0.001, redial_most_s=0.004)
    dialling = Dialling(TcpAddress("b", 1), dial, told.append, options)
    await asyncio.wait((enough, dialling.ended), return_when=asyncio.FIRST_COMPLETED)
    dialling.stop()
    await asyncio.wait((dialling.ended,))
    waits = [after - before for before, after in itertools.pairwise(attempts)]
    for wait, least in zip(waits, (0.001, 0.002, 0.004, 0.004, 0.004), strict=False):
        assert wait >= 0.75 * least - 0.0005
    assert told == [
        "tcp:b:1: Connection refused", "tcp:b:1: Refused", "tcp:b:1 does not answer",
        "tcp:b:1 and this instance do not agree on TLS: [SSL: NO_CIPHERS] nothing in common",
    ]  # fmt: skip
