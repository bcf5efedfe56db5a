"""Named credentials in the registry: known to all who watch it, never shown, and nobody's but those
of their name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.plugged_store import Store, eventually
from tests.storage_fakes import HeldClock

from shoal.domain.errors import Conflict, InvalidSpecification, NotFound, StoreUnavailable
from shoal.domain.model import ModelRecord, ModelSpec, make_revision
from shoal.node.contents import CREDENTIALS, read_contents
from shoal.node.journal import Journal
from shoal.node.named_credentials import NamedCredentials
from shoal.node.replica import Replica
from shoal.node.stored_credentials import StoredCredentials
from shoal.storage.places.credentials import Credentials, FileSource, access_of
from shoal.storage.places.sealing import Keys
from shoal.storage.places.stored import StoredSource

S3 = {"type": "s3", "access_key_id": "AKIA", "secret_access_key": "SECRET"}
ONE, TWO = Keys((bytes(32),), "/one"), Keys((bytes(31) + b"1",), "/two")


@dataclass
class Node:
    """What an instance has of it."""

    named: NamedCredentials
    stored: StoredCredentials
    credentials: Credentials
    replica: Replica
    journal: Journal
    problems: list[str]

    def field(self, name: str | None, field: str, kind: str = "s3") -> str:
        access = self.credentials.get(name, kind)
        return "" if access is None else access.get(field)


Start = Callable[..., "asyncio.Future[Node]"]

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def start(store: Store) -> AsyncIterator[Start]:
    """An instance on the store, with these keys and credential files."""
    nodes: list[Node] = []

    async def made(keys: Keys | None = None, *files: Path) -> Node:
        known = StoredSource(keys or Keys())
        credentials = Credentials([*map(FileSource, files), known])
        problems: list[str] = []
        stored = StoredCredentials(store, known, problems.append)
        replica = Replica(store, lambda *_: None, problems.append)
        journal = Journal(HeldClock())
        contents = await read_contents(store)
        await stored.start(contents)
        await replica.start(contents)
        named = NamedCredentials(credentials, stored, replica, journal)
        nodes.append(Node(named, stored, credentials, replica, journal, problems))
        return nodes[-1]

    yield lambda *given: asyncio.ensure_future(made(*given))
    store.gone = False
    for node in nodes:
        await node.stored.stop()
        await node.replica.stop()


def record(name: str, uri: str = "s3://b/m", credentials: str | None = None) -> ModelRecord:
    return ModelRecord(name=name, spec=ModelSpec(name=name, uri=uri, credentials=credentials))


# --- knowing ------------------------------------------------------------------------------------


async def test_what_is_set_is_known_at_once_here_and_soon_elsewhere(start: Start) -> None:
    here, there = await start(), await start()
    view = await here.named.set("farm", S3)
    assert (view.name, view.type, view.fields, view.source, view.encrypted) == (
        "farm", "s3", ["access_key_id", "secret_access_key"], "registry", False)
    assert here.field("farm", "secret_access_key") == "SECRET"
    await eventually(lambda: "farm" in there.credentials.names())
    assert there.field("farm", "secret_access_key") == "SECRET"


async def test_a_start_knows_what_was_set_before(start: Start) -> None:
    await (await start(ONE)).named.set("farm", S3)
    again = await start(ONE)
    assert again.field("farm", "secret_access_key") == "SECRET"
    assert again.problems == []


async def test_setting_again_replaces_all_fields_and_deleting_forgets(start: Start) -> None:
    here, there = await start(), await start()
    await here.named.set("farm", {**S3, "region": "old"})
    await here.named.set("farm", {**S3, "access_key_id": "NEW"})
    await eventually(lambda: "farm" in there.credentials.names()
                     and there.field("farm", "access_key_id") == "NEW")
    assert there.field("farm", "region") == ""
    await there.named.delete("farm")
    assert there.credentials.names() == []
    await eventually(lambda: not here.credentials.names())


async def test_what_the_watch_brings_late_undoes_nothing_newer(start: Start, store: Store) -> None:
    here, there = await start(), await start()
    await there.named.set("farm", {**S3, "region": "theirs"})
    await here.named.set("farm", {**S3, "region": "ours"})  # before the watch had its turn
    seen = set()
    for _ in range(20):
        await asyncio.sleep(0)
        seen.add(here.field("farm", "region"))
    assert seen == {"ours"}


async def test_a_reader_on_another_thread_sees_one_state(start: Start) -> None:
    here = await start()
    await here.named.set("a", S3)
    seen = here.stored.known.read()
    await here.named.set("b", S3)
    assert list(seen) == ["a"]
    assert sorted(here.stored.known.read()) == ["a", "b"]


async def test_an_outage_of_the_registry_loses_nothing(start: Start, store: Store) -> None:
    here, there = await start(), await start()
    await here.named.set("farm", S3)
    await eventually(lambda: there.credentials.names())
    store.pull()
    with pytest.raises(StoreUnavailable):
        await here.named.set("other", S3)
    with pytest.raises(StoreUnavailable):
        await here.named.delete("farm")
    assert here.credentials.names() == ["farm"]
    store.gone = False
    await here.named.set("other", S3)
    await eventually(lambda: len(there.credentials.names()) == 2)


async def test_missed_history_is_made_up_for(start: Start, store: Store) -> None:
    here, there = await start(), await start()
    await here.named.set("gone", S3)
    await eventually(lambda: there.credentials.names())
    store.pull()
    await asyncio.sleep(0.005)
    store.gone = False
    await store.delete(CREDENTIALS + "gone")
    for number in range(150):
        await store.put("noise", str(number).encode())
    await store.put(
        CREDENTIALS + "new", there.stored.known.record(access_of("new", S3, "new")))
    await eventually(lambda: there.credentials.names() == ["new"])


# --- at rest ------------------------------------------------------------------------------------


async def stored_bytes(store: Store) -> bytes:
    return b"".join(entry.value for entry in (await store.list("")).entries)


async def test_with_a_key_the_registry_shows_nothing(start: Start, store: Store) -> None:
    here = await start(ONE)
    assert (await here.named.set("farm", S3)).encrypted is True
    held = await stored_bytes(store)
    assert not any(part in held for part in (b"SECRET", b"AKIA", b"secret_access_key"))
    await (await start()).named.set("plain", S3)
    assert b"SECRET" in await stored_bytes(store)


async def test_another_key_or_none_is_told_and_harms_no_other(start: Start) -> None:
    await (await start(ONE)).named.set("farm", S3)
    for keys, story in ((TWO, "a key that /two does not hold"), (None, "this instance has no key")):
        other = await start(keys)
        assert any("'farm'" in each and story in each for each in other.problems)
        with pytest.raises(InvalidSpecification, match=story):
            other.credentials.get("farm", "s3")
        view = await other.named.one("farm")
        assert (view.type, view.fields, view.encrypted) == ("", [], True)
        assert story in (view.problem or "")
        await other.named.set("mine", S3)
        assert other.field("mine", "access_key_id") == "AKIA"


async def test_an_encrypted_record_counts_under_its_own_name_only(
    start: Start, store: Store
) -> None:
    here = await start(ONE)
    await here.named.set("farm", S3)
    entry = await store.get(CREDENTIALS + "farm")
    assert entry is not None
    await store.put(CREDENTIALS + "other", entry.value)
    await eventually(lambda: "other" in here.credentials.names())
    with pytest.raises(InvalidSpecification, match=r"'other' in the registry .* damaged"):
        here.credentials.get("other", "s3")


@pytest.mark.parametrize("value", [
    b'{"type": "s3", "fields": {"region": ["SECRET"]}}', b"{SECRET", b"SECRET", b"", b"\x01SECRET",
    b'{"fields": {"session_token": "SECRET"}}', b"{\xff",
], ids=["shape", "no-json", "no-form", "empty", "short", "no-type", "bytes"])
async def test_a_record_that_cannot_be_read_is_told_and_not_shown(
    start: Start, store: Store, value: bytes
) -> None:
    await store.put(CREDENTIALS + "bad", value)
    here = await start(ONE)
    with pytest.raises(InvalidSpecification, match=r"'bad' in the registry .*set them") as told:
        here.credentials.get("bad", "s3")
    assert "SECRET" not in f"{told.value.message} {here.problems} {await here.named.all()}"
    await here.named.set("bad", S3)
    assert here.field("bad", "access_key_id") == "AKIA"


async def test_what_a_later_release_says_beside_is_left_out(start: Start, store: Store) -> None:
    await store.put(CREDENTIALS + "new", b'{"type": "hf", "fields": {"token": "t"}, "since": 1}')
    assert (await start()).field("new", "token", "hf") == "t"


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "story"), [
    ({**S3, "acces_key": "SECRET"}, r"'acces_key' is not known for .* 's3'; known are access"),
    ({"type": "ftp", "x": "SECRET"}, "type 'ftp' is not known"),
    ({"session_token": "SECRET"}, "the field 'type' is missing"),
    ({"type": "s3", "secret_access_key": "SECRET"}, "the field 'access_key_id' is missing"),
    ({"type": "s3", "region": ["SECRET"]}, "the field 'region' must be a text"),
    ({"type": "s3", "verify_ssl": "SECRET"}, "must be true or false"),
    ({"type": "http", "headers": "SECRET"}, "must be a JSON object"),
], ids=["unknown", "type", "no-type", "half", "list", "flag", "headers"])
async def test_wrong_fields_are_told_without_a_value(
    start: Start, store: Store, entry: dict[str, object], story: str
) -> None:
    here = await start()
    with pytest.raises(InvalidSpecification, match=story) as told:
        await here.named.set("farm", entry)
    assert "credentials 'farm'" in told.value.message
    assert "SECRET" not in told.value.message
    assert (await store.list("")).entries == []


async def test_a_name_that_no_path_can_have_is_refused(start: Start) -> None:
    with pytest.raises(InvalidSpecification, match=r"credentials name 'a/b' is not valid"):
        await (await start()).named.set("a/b", S3)
    with pytest.raises(InvalidSpecification, match="not what the key is for"):
        await (await start()).named.set("default_gcs", S3)


async def test_kserves_names_and_aliases_are_kept_as_ours(start: Start) -> None:
    here = await start()
    view = await here.named.set("farm", {
        "AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B",
        "serving.kserve.io/s3-usehttps": "0"})
    assert (view.type, view.fields) == (
        "s3", ["access_key_id", "secret_access_key", "use_https"])


# --- beside files -------------------------------------------------------------------------------


async def test_a_file_wins_and_both_are_shown(start: Start, tmp_path: Path) -> None:
    await (await start()).named.set("farm", {**S3, "region": "stored"})
    (tmp_path / "c.json").write_text(json.dumps(
        {"farm": {**S3, "region": "file"}, "bad": "SECRET"}))
    here = await start(None, tmp_path / "c.json")
    assert here.field("farm", "region") == "file"
    listed = (await here.named.all()).credentials
    assert [(each.name, each.source.rpartition("/")[2], each.encrypted) for each in listed] == [
        ("bad", "c.json", None), ("farm", "c.json", None), ("farm", "registry", False)]
    assert "c.json has the same name, and is used instead" in (listed[2].problem or "")
    assert "is no JSON" in (listed[0].problem or "")
    assert (await here.named.one("farm")).encrypted is None
    with pytest.raises(Conflict, match=r"c\.json, which wins over the registry; change them there"):
        await here.named.set("farm", S3)
    await here.replica.put(record("m", credentials="farm"))
    assert (await here.named.delete("farm")).models == 0
    assert here.field("farm", "region") == "file"
    with pytest.raises(Conflict, match="which wins"):
        await here.named.delete("farm")


async def test_a_file_that_cannot_be_read_is_a_problem_of_the_list(
    start: Start, tmp_path: Path
) -> None:
    await (await start()).named.set("farm", S3)
    listed = await (await start(None, tmp_path / "none")).named.all()
    assert [each.name for each in listed.credentials] == ["farm"]
    assert "does not exist" in listed.problems[0]


# --- deleting -----------------------------------------------------------------------------------


async def test_deleting_tells_who_uses_them(start: Start) -> None:
    here = await start()
    await here.named.set("farm", S3)
    for number in range(12):
        await here.replica.put(record(f"m{number:02}", credentials="farm"))
    await here.replica.put(record("farm-like", credentials="farmer"))
    await here.replica.put(record("plain", "/farm"))
    leads = make_revision(
        ModelSpec(name="leads", uri="s3://b/x", credentials="farm"), version=1, uri="s3://b/x/1",
        format="onnx", artifact_digest="sha256:" + "0" * 64, files_bytes=1)
    await here.replica.put(ModelRecord(
        name="leads", spec=ModelSpec(name="leads", uri="/folder/leads"), revisions=(leads,)))
    gone = await here.named.delete("farm")
    assert (gone.name, gone.models) == ("farm", 13)
    assert gone.first == ["leads", *(f"m{number:02}" for number in range(9))]
    with pytest.raises(NotFound, match="'farm' are not in the registry; there are none"):
        await here.named.delete("farm")
    with pytest.raises(NotFound, match="'farm' are not known"):
        await here.named.one("farm")


async def test_default_credentials_are_used_by_models_that_name_none(start: Start) -> None:
    here = await start()
    for name in ("default", "default_s3"):
        await here.named.set(name, S3)
    for each in (record("a"), record("b", "gs://b/m"), record("c", "/m"), record("d", "odd://x"),
                 record("e", credentials="other"), record("f", credentials="default_s3")):
        await here.replica.put(each)
    assert (await here.named.delete("default")).models == 0  # default_s3 is there
    assert (await here.named.delete("default_s3")).first == ["a", "f"]
    await here.named.set("default", S3)
    assert (await here.named.delete("default")).first == ["a"]


async def test_events_say_the_name_alone(start: Start) -> None:
    here = await start()
    await here.named.set("farm", S3)
    await here.named.delete("farm")
    events = here.journal.page(0, 10, None).events
    assert [each.kind for each in events] == ["credentials_set", "credentials_deleted"]
    assert "SECRET" not in str(events)
    assert "AKIA" not in str(events)
