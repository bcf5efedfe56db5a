"""Links between instances that show each other certificates."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path

import pytest
from tests.peer_node import MIB, Make, ask, begin, body_of, until

from shoal.dataplane.peer import (
    TlsFiles,
    client_context,
    server_context,
)
from shoal.domain.errors import InvalidSpecification


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path, name: str) -> TlsFiles:
    """An authority and one certificate of it."""
    openssl(
        folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-keyout", f"{name}-ca.key", "-out", f"{name}-ca.pem", "-subj", f"/CN={name}",
    )
    openssl(
        folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN=instance of {name}",
    )
    openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{name}-ca.pem", "-CAkey",
        f"{name}-ca.key", "-CAcreateserial", "-out", f"{name}.pem",
    )
    return TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}-ca.pem")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[TlsFiles, TlsFiles]:
    """Of our authority, and of another."""
    folder = tmp_path_factory.mktemp("certificates")
    return make_certificates(folder, "ours"), make_certificates(folder, "theirs")


Files = tuple[TlsFiles, TlsFiles]


class TestTls:
    async def test_both_sides_show_certificates(self, node: Make, files: Files) -> None:
        a, b = node("a", tls=client_context(files[0])), node("b")
        link = await a.reach("b", await b.server.listen("127.0.0.1:0", server_context(files[0])))
        body = os.urandom(3 * MIB)
        assert body_of(await ask(link, body=body)) == body
        many = [begin(link, body=b"%d" % i)[1] for i in range(200)]
        assert [body_of(await each) for each in many] == [b"%d" % i for i in range(200)]

    async def test_a_server_of_another_authority_is_refused(
        self, node: Make, files: Files
    ) -> None:
        a, b = node("a", tls=client_context(files[0])), node("b")
        a.links.set_members({
            "b": await b.server.listen("127.0.0.1:0", server_context(files[1]))
        })
        await until(lambda: a.unreachable, "the refusal")
        assert "do not agree on TLS: CERTIFICATE_VERIFY_FAILED" in a.unreachable[0]
        assert a.ups == []

    async def test_a_caller_of_another_authority_is_refused(
        self, node: Make, files: Files
    ) -> None:
        ours, theirs = files
        stranger = TlsFiles(theirs.cert, theirs.key, ours.ca)
        a, b = node("a", tls=client_context(stranger)), node("b")
        a.links.set_members({"b": await b.server.listen("127.0.0.1:0", server_context(ours))})
        await until(lambda: a.unreachable, "the refusal")
        assert a.ups == []
        assert b.server.links == 0

    async def test_a_caller_without_a_certificate_is_refused(
        self, node: Make, files: Files
    ) -> None:
        naked = ssl.create_default_context(cafile=files[0].ca)
        naked.check_hostname = False
        a, b = node("a", tls=naked), node("b")
        a.links.set_members({"b": await b.server.listen("127.0.0.1:0", server_context(files[0]))})
        await until(lambda: a.unreachable, "the refusal")
        assert a.ups == []

    async def test_a_plain_caller_is_refused(self, node: Make, files: Files) -> None:
        a, b = node("a"), node("b")
        a.links.set_members({"b": await b.server.listen("127.0.0.1:0", server_context(files[0]))})
        await until(lambda: a.unreachable, "the refusal")
        assert a.ups == []

    async def test_a_plain_server_is_refused(self, node: Make, files: Files) -> None:
        a, b = node("a", tls=client_context(files[0])), node("b")
        a.links.set_members({"b": await b.server.listen("127.0.0.1:0")})
        await until(lambda: a.unreachable, "the refusal")
        assert a.ups == []

    def test_files_that_do_not_fit_are_errors(self, files: Files, tmp_path: Path) -> None:
        ours, theirs = files
        empty = tmp_path / "empty.pem"
        empty.write_text("")
        for wrong, said in [
            (TlsFiles(ours.cert, theirs.key, ours.ca), "mesh.key_file"),
            (TlsFiles(tmp_path / "none.pem", ours.key, ours.ca), "No such file"),
            (TlsFiles(ours.cert, ours.key, empty), "mesh.ca_file"),
            (TlsFiles(ours.cert, ours.key, tmp_path / "none.pem"), "mesh.ca_file"),
        ]:
            with pytest.raises(InvalidSpecification, match=said):
                server_context(wrong)
