"""Where an etcd is and how to sign in: what settings say, and which of them are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.storage_fakes import HeldClock

from shoal.domain.errors import InvalidSpecification
from shoal.settings import RegistrySettings, read_settings, value_of
from shoal.stores.etcd import EtcdStore
from shoal.stores.etcd_options import EtcdOptions, Login, Tls, read_options
from shoal.stores.open import open_store, registry_file


def options(**settings: object) -> EtcdOptions:
    return read_options(RegistrySettings.model_validate({"url": "etcd://h", **settings}))


@pytest.mark.parametrize(
    ("url", "endpoints", "prefix"),
    [
        ("etcd://h", ("h:2379",), "/shoal/"),
        ("etcd://h:1/", ("h:1",), "/shoal/"),
        ("etcd://a:1,b,a:1/prod", ("a:1", "b:2379"), "/prod/"),
        ("etcd://10.0.0.1,[::1]:5/a/b/", ("10.0.0.1:2379", "[::1]:5"), "/a/b/"),
        ("etcds://h/with%20space", ("h:2379",), "/with space/"),
    ],
)
def test_a_url_names_members_and_a_prefix(
    url: str, endpoints: tuple[str, ...], prefix: str
) -> None:
    read = options(url=url)
    assert (read.endpoints, read.prefix) == (endpoints, prefix)
    assert read.url == f"{url.partition(':')[0]}://{','.join(endpoints)}{prefix}"


@pytest.mark.parametrize(
    "url",
    ["etcd://", "etcd:///prefix", "etcd://a,,b", "etcd://h:port", "etcd://h:99999", "etcd://h?x=1",
     "etcd://h/#x", "etcds://:2379"],
)
def test_a_url_that_names_no_member_is_refused(url: str) -> None:
    with pytest.raises(InvalidSpecification, match=r"etcd://host:2379,host2:2379/prefix") as told:
        options(url=url)
    assert repr(url) in told.value.message


def test_a_password_in_the_url_is_refused_without_repeating_it() -> None:
    with pytest.raises(InvalidSpecification, match=r"registry\.username") as told:
        options(url="etcd://shoal:geheim@h")
    assert "geheim" not in told.value.message


def test_tls_is_what_the_scheme_says() -> None:
    assert options().tls is None
    assert options(url="etcds://h").tls == Tls()
    assert options(url="etcds://h", ca_file="/ca", cert_file="/c", key_file="/k").tls == Tls(
        Path("/ca"), (Path("/c"), Path("/k"))
    )


def test_a_login_is_a_user_with_a_password_or_its_file() -> None:
    assert options().login is None
    assert options(username="u", password="p").login == Login("u", "p")
    assert options(username="u", password_file="/f").login == Login("u", Path("/f"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ca_file": "/ca"}, "registry.ca_file is set, but registry.url is a plain connection"),
        ({"url": "etcds://h", "cert_file": "/c"}, "belong together"),
        ({"url": "etcds://h", "key_file": "/k"}, "belong together"),
        ({"password": "geheim"}, "set registry.username"),
        ({"password_file": "/f"}, "set registry.username"),
        ({"username": "u"}, "needs a password"),
        ({"username": "u", "password": "geheim", "password_file": "/f"}, "either"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidSpecification) as told:
        options(**settings)
    assert said in told.value.message
    assert "geheim" not in told.value.message


async def test_an_etcd_is_opened_without_being_there(tmp_path: Path) -> None:
    store = open_store(RegistrySettings(url="etcd://127.0.0.1:1"), tmp_path, HeldClock())
    assert isinstance(store, EtcdStore)
    assert registry_file("etcd://h", tmp_path) is None
    await store.close()


def test_without_grpcio_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules]:
        if name.startswith("shoal.stores.etcd") and name != "shoal.stores.etcd_options":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(InvalidSpecification, match=r"pip install 'shoal\[etcd\]'"):
        open_store(RegistrySettings(url="etcd://h"), tmp_path, HeldClock())


# --- the password among the settings


def test_a_password_is_shown_as_asterisks() -> None:
    read = read_settings({}, {"SHOAL_REGISTRY_PASSWORD": "geheim"}).settings
    assert read.registry.password.get_secret_value() == "geheim"
    assert value_of(read, "registry.password") == "**********"
    assert "geheim" not in repr(read)


def test_a_password_that_is_no_text_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "shoal.yaml"
    file.write_text("registry: {password: 4711}")
    with pytest.raises(InvalidSpecification, match=r"registry\.password") as told:
        read_settings({}, {}, file)
    assert "4711" not in told.value.message
