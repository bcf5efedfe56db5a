"""Azure Blob Storage as Microsoft's own emulator speaks it: listed, read, refused, served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.cases import Case
from tests.azurite import ACCOUNT, KEY, Azurite, azurite
from tests.remote_fakes import names, whole
from tests.served import Served, until

from shoal.domain.errors import ArtifactChanged, ArtifactMissing, PlaceDenied
from shoal.storage.download import Options, download
from shoal.storage.places.buckets import Patience
from shoal.storage.places.credentials import Access
from shoal.storage.places.object_store import ObjectStore

pytestmark = pytest.mark.usefixtures("nobody")

ONCE = Patience(retries=0)


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


def place(server: Azurite, **values: str) -> ObjectStore:
    return ObjectStore(Access("mine", "azure", {
        "endpoint_url": server.url, "account_name": ACCOUNT, **values}), ONCE)


def named(server: Azurite) -> ObjectStore:
    return place(server, account_key=KEY)


def test_folders_and_lone_files_are_listed_and_read(azure: Azurite) -> None:
    azure.container("folders", {f"m/{n}/ü + {n}%": b"%d" % n for n in range(7)} | {"lone": b"l"})
    store = named(azure)
    snapshot = store.look("az://folders/m")
    assert names(snapshot) == [f"{n}/ü + {n}%" for n in range(7)]
    assert whole(store, snapshot, 3) == b"3"
    lone = store.look("az://folders/lone")
    assert names(lone) == [""]
    assert whole(store, lone) == b"l"
    assert names(store.look("az://folders"))[0] == "lone"
    one = store.look("az://folders/m/3/ü + 3%")
    assert one.files[0].tag == snapshot.files[3].tag


def test_parts_are_downloaded_at_once_and_make_the_whole(azure: Azurite, tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192
    azure.container("large", {"m/big.bin": content, "m/small": b"1"})
    store = named(azure)
    snapshot = store.look("az://large/m")
    download(store, snapshot, tmp_path / "m", Options(part_bytes=256 * 1024))
    assert (tmp_path / "m" / "big.bin").read_bytes() == content
    assert (tmp_path / "m" / "small").read_bytes() == b"1"
    big = snapshot.files[0]
    assert b"".join(store.read(snapshot, big, 257, 260)) == b"\x01\x02\x03"


def test_what_was_overwritten_or_deleted_is_not_read(azure: Azurite) -> None:
    azure.container("changing", {"a": b"old", "b": b"old"})
    store = named(azure)
    for key in ("a", "b"):
        snapshot = store.look(f"az://changing/{key}")
        if key == "a":
            azure.put("changing", key, b"new")
        else:
            azure.delete("changing", key)
        with pytest.raises(ArtifactChanged, match=f"az://changing/{key}"):
            whole(store, snapshot)


def test_what_is_missing_is_said_so(azure: Azurite) -> None:
    azure.container("present", {"a": b"1"})
    for uri in ("az://absent/a", "az://present/b"):
        with pytest.raises(ArtifactMissing, match=uri):
            named(azure).look(uri)


def test_signatures_are_accepted_for_what_they_are_given(azure: Azurite) -> None:
    azure.container("signed", {"m/a": b"1"})
    azure.container("other", {"m/a": b"1"})
    valid, late = azure.signature("signed"), azure.signature("signed", valid_s=-60)
    store = place(azure, sas_token=f"?{valid}")
    assert whole(store, store.look("az://signed/m")) == b"1"
    uri = f"https://{ACCOUNT}.blob.core.windows.net/signed/m?{valid}"
    store = place(azure)
    assert whole(store, store.look(uri)) == b"1"
    for token, container in ((late, "signed"), (valid, "other")):
        with pytest.raises(PlaceDenied, match="'mine'") as told:
            place(azure, sas_token=token).look(f"az://{container}/m")
        assert token[-20:] not in told.value.message


def test_a_wrong_key_is_refused_and_not_shown(azure: Azurite) -> None:
    azure.container("guarded", {"a": b"1"})
    wrong = "d3Jvbmctc2VjcmV0"
    with pytest.raises(PlaceDenied, match="'mine'") as told:
        place(azure, account_key=wrong).look("az://guarded/a")
    assert wrong not in told.value.message


def test_a_connection_string_tells_everything(azure: Azurite) -> None:
    azure.container("connected", {"a": b"1"})
    text = (f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint={azure.url};")
    store = ObjectStore(Access("mine", "azure", {"connection_string": text}), ONCE)
    assert whole(store, store.look("az://connected/a")) == b"1"


def test_who_is_nobody_reads_what_is_public_and_nothing_else(azure: Azurite) -> None:
    azure.container("public", {"m/a": b"1"}, public=True)
    azure.container("private", {"m/a": b"1"})
    store = place(azure, anonymous="true")
    assert whole(store, store.look("az://public/m")) == b"1"
    with pytest.raises((PlaceDenied, ArtifactMissing)):  # a service tells nobody which
        store.look("az://private/m")


def test_a_watched_container_is_served_and_followed(
        azure: Azurite, example_cases: tuple[Path, list[Case]], tmp_path: Path) -> None:
    folder, cases = example_cases
    azure.container("models", {})
    credentials = tmp_path / "storage-config"
    credentials.mkdir()
    (credentials / "default_azure").write_text(json.dumps({
        "type": "azure", "endpoint_url": azure.url, "account_name": ACCOUNT, "account_key": KEY}))

    def upload(version: str) -> None:
        for file in (folder / "prices" / version).rglob("*"):
            if file.is_file():
                azure.put("models", file.relative_to(folder).as_posix(), file.read_bytes())

    def is_answered(version: str) -> bool:
        case = next(each for each in cases if (each.model, each.version) == ("prices", version))
        answer = served.infer("prices", case.request)
        if answer.status_code != 200:
            return False
        [expected], [given] = case.expect["outputs"], answer.json()["outputs"]
        return bool(given["data"] == pytest.approx(expected["data"], rel=1e-5))

    upload("1")
    with Served("az://models", "--folder-settle-s", "0", "--storage-poll-s", "0.2",
                "--storage-credentials", credentials, data_dir=tmp_path / "data") as served:
        assert is_answered("1")
        upload("2")
        until(lambda: is_answered("2"), "the new version")
