"""Who may use the registry in etcd: TLS, client certificates, users, tokens that expire."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.certificates import Authority
from tests.etcd_server import EtcdServer

from shoal.domain.errors import StoreUnavailable
from shoal.ports import Change
from shoal.settings import RegistrySettings
from shoal.stores.etcd import EtcdStore
from shoal.stores.etcd_options import read_options

PASSWORD = "not-to-be-shown"


async def take(watch: AsyncIterator[Change], count: int) -> list[Change]:
    async with asyncio.timeout(20):
        return [await anext(watch) for _ in range(count)]


async def refusal(store: EtcdStore) -> str:
    """Of a read."""
    with pytest.raises(StoreUnavailable) as told:
        await store.get("a")
    await store.close()
    return told.value.message


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other-certificates"))


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[EtcdServer]:
    """It wants client certificates."""
    certificate, key = authority.sign("server")
    flags = (
        "--cert-file", str(certificate), "--key-file", str(key), "--client-cert-auth",
        "--trusted-ca-file", str(authority.certificate),
    )
    with EtcdServer(*flags, scheme="https") as server:
        yield server


def over_tls(server: EtcdServer, ca: Path, pair: tuple[Path, Path] | None) -> EtcdStore:
    cert, key = pair or ("", "")
    return EtcdStore(read_options(RegistrySettings(
        url=server.url, ca_file=str(ca), cert_file=str(cert), key_file=str(key)
    )))


async def test_a_client_with_its_certificate_is_served(
    secure: EtcdServer, authority: Authority
) -> None:
    store = over_tls(secure, authority.certificate, authority.sign("client"))
    revision = await store.put("a", b"1")
    assert await take(store.watch("", revision - 1), 1) == [Change("a", b"1", revision)]
    await store.close()


async def test_a_client_without_a_certificate_is_told_what_to_set(
    secure: EtcdServer, authority: Authority
) -> None:
    said = await refusal(over_tls(secure, authority.certificate, None))
    assert "registry.cert_file" in said


async def test_a_client_of_another_authority_is_told_that_it_is_not_accepted(
    secure: EtcdServer, authority: Authority, other_authority: Authority
) -> None:
    stranger = over_tls(secure, authority.certificate, other_authority.sign("stranger"))
    assert "registry.cert_file" in await refusal(stranger)


async def test_a_server_of_another_authority_is_not_trusted(
    secure: EtcdServer, authority: Authority, other_authority: Authority
) -> None:
    store = over_tls(secure, other_authority.certificate, authority.sign("client"))
    assert "registry.ca_file" in await refusal(store)


async def test_without_ca_file_the_authorities_of_the_system_count(
    secure: EtcdServer, authority: Authority
) -> None:
    options = read_options(RegistrySettings(url=secure.url))
    assert "registry.ca_file" in await refusal(EtcdStore(options))


async def test_a_plain_client_at_a_tls_port_and_the_reverse_are_told(
    secure: EtcdServer, etcd_server: EtcdServer, authority: Authority
) -> None:
    plain = read_options(RegistrySettings(url=f"etcd://{secure.endpoint}"))
    tls = read_options(RegistrySettings(
        url=f"etcds://{etcd_server.endpoint}", ca_file=str(authority.certificate)
    ))
    for options in (plain, tls):
        assert "etcds:// instead of etcd://, or the reverse" in await refusal(EtcdStore(options))


@pytest.mark.parametrize("broken", ["ca", "pair", "mixed"])
async def test_files_that_are_no_certificates_are_told(
    secure: EtcdServer, authority: Authority, tmp_path: Path, broken: str
) -> None:
    junk = tmp_path / "junk"
    junk.write_text("junk")
    certificate, key = authority.sign("client")
    store = over_tls(
        secure, junk if broken == "ca" else authority.certificate,
        {"ca": (certificate, key), "pair": (junk, junk), "mixed": (key, certificate)}[broken],
    )
    assert "no certificate or key in PEM" in await refusal(store)


async def test_certificates_that_are_renewed_count_without_a_restart(
    secure: EtcdServer, authority: Authority, other_authority: Authority, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    store = over_tls(secure, ca, authority.sign("client"))
    with pytest.raises(StoreUnavailable, match=r"ca\.pem: No such file"):
        await store.get("a")
    shutil.copy(other_authority.certificate, ca)
    with pytest.raises(StoreUnavailable, match=r"registry\.ca_file"):
        await store.get("a")
    shutil.copy(authority.certificate, ca)
    await store.get("a")
    await store.close()


# --- users


@pytest.fixture
def guarded() -> Iterator[EtcdServer]:
    """It knows `root`, and `shoal`, who may use `/shoal/`."""
    with EtcdServer("--bcrypt-cost", "4") as server:
        for user in ("root", "shoal"):
            server.call("auth/user/add", {"name": user, "password": PASSWORD})
            server.call("auth/role/add", {"name": user})
            server.call("auth/user/grant", {"user": user, "role": user})
        server.call("auth/role/grant", {"name": "shoal", "perm": {
            "permType": "READWRITE", "key": "L3Nob2FsLw==", "range_end": "L3Nob2FsMA==",
        }})
        server.call("auth/enable", {})
        yield server


def as_user(server: EtcdServer, name: str = "shoal", password: str = PASSWORD, path: str = ""
            ) -> EtcdStore:
    return EtcdStore(read_options(RegistrySettings.model_validate(
        {"url": server.url + path, "username": name, "password": password}
    )))


async def eventually_put(store: EtcdStore, key: str) -> int:
    ends_at = time.monotonic() + 20
    while True:
        try:
            return await store.put(key, b"")
        except StoreUnavailable:
            if time.monotonic() > ends_at:
                raise
            await asyncio.sleep(0.01)


async def test_a_user_is_served_with_its_password(guarded: EtcdServer) -> None:
    store = as_user(guarded)
    revision = await store.put("a", b"1", lease=await store.grant(10))
    assert await take(store.watch("", revision - 1), 1) == [Change("a", b"1", revision)]
    await store.close()


async def test_a_wrong_password_is_told_without_showing_it(guarded: EtcdServer) -> None:
    said = await refusal(as_user(guarded, password="guessed"))
    assert "'shoal'" in said
    assert "registry.username and password" in said
    assert "guessed" not in said
    assert PASSWORD not in repr(as_user(guarded).options)


async def test_who_has_no_user_is_told_to_set_one(guarded: EtcdServer) -> None:
    store = EtcdStore(read_options(RegistrySettings(url=guarded.url)))
    for use in (store.get("a"), store.put("a", b""), anext(store.watch("", 0))):
        with pytest.raises(StoreUnavailable, match=r"set registry\.username|without a user"):
            await use
    await store.close()


async def test_keys_that_the_user_has_no_right_to_are_told(guarded: EtcdServer) -> None:
    store = as_user(guarded, path="/elsewhere")
    for use in (store.get("a"), store.put("a", b""), anext(store.watch("", 0))):
        with pytest.raises(StoreUnavailable, match="user 'shoal' may not do that"):
            await use
    await store.close()


async def test_a_user_where_none_is_needed_does_no_harm(etcd_server: EtcdServer) -> None:
    store = as_user(etcd_server, path="/needless")
    await store.put("a", b"1")
    await store.close()


async def test_an_expired_token_is_renewed_unnoticed(guarded: EtcdServer) -> None:
    """etcd forgets its tokens when it starts anew."""
    store = as_user(guarded)
    revision = await store.put("a", b"1")
    watch = store.watch("", revision - 1)
    await take(watch, 1)
    waiting = asyncio.create_task(take(watch, 1))
    await asyncio.to_thread(guarded.restart)
    revision = await eventually_put(store, "b")
    assert await waiting == [Change("b", b"", revision)]
    await store.close()


async def test_a_password_that_changes_in_its_file_counts_at_the_next_sign_in(
    guarded: EtcdServer, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    store = EtcdStore(read_options(RegistrySettings(
        url=guarded.url, username="shoal", password_file=str(file)
    )))
    with pytest.raises(StoreUnavailable, match=r"password_file.*No such file"):
        await store.get("a")
    file.write_text("wrong\n")
    with pytest.raises(StoreUnavailable, match=r"registry\.username and password"):
        await store.get("a")
    file.write_text(PASSWORD + "\n")
    await store.put("a", b"1")
    await store.close()
