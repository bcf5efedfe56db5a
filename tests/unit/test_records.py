"""The compact form of a record: nothing is lost in it, and it is small."""

from __future__ import annotations

import msgspec
import pytest

from shoal.domain.model import ModelRecord, ModelSpec, VersionPolicy, make_revision
from shoal.domain.signature import TensorSpec
from shoal.node import records

DIGEST = "sha256:" + "0f" * 32


def made(spec: ModelSpec, *versions: int, **fields: object) -> ModelRecord:
    revisions = tuple(
        make_revision(spec, version=version, uri=f"{spec.uri}/{version}/model.onnx", format="onnx",
                      artifact_digest=DIGEST, files_bytes=711)
        for version in versions
    )
    return ModelRecord(name=spec.name, spec=spec, revisions=revisions, **fields)  # type: ignore[arg-type]


def simple(name: str = "tenant-0000001") -> ModelRecord:
    spec = ModelSpec(name=name, uri=f"/srv/models/{name}.onnx")
    revision = make_revision(
        spec, version=1, uri=spec.uri, format="onnx", artifact_digest=DIGEST, files_bytes=711
    )
    return ModelRecord(name=name, spec=spec, revisions=(revision,), registered_at=1763720000.25)


RICH = ModelSpec(
    name="rich", uri="/m/rich", format="onnx", digest=DIGEST,
    version_policy=VersionPolicy(latest=2), inputs=(TensorSpec("x", "FP32", (-1, 4)),),
    options={"a": [1, {"b": None}]}, pin=True, priority=3, idle_ttl_s=4.5, memory_bytes=7,
    max_concurrency=2, repeatable=False, labels={"team": "fish"},
)


@pytest.mark.parametrize(
    "record",
    [
        simple(),
        made(RICH, 1, 2, problem="version 3 is not served", origin="folder:/m", registered_at=1.0),
        made(ModelSpec(name="none", uri="/m/none"), problem="nothing was found"),
        made(ModelSpec(name="é-Ω", uri="/m/\N{SNOWMAN}")),
    ],
    ids=lambda record: record.name.encode("ascii", "replace").decode(),
)
def test_what_is_encoded_comes_back(record: ModelRecord) -> None:
    assert records.decode(record.name, records.encode(record)) == record


def test_a_revision_that_a_description_completed_comes_back() -> None:
    spec = ModelSpec(name="m", uri="/m")
    revision = make_revision(
        spec, version=2, uri="/elsewhere/m.onnx", format="onnx", artifact_digest="md5:1",
        files_bytes=1, inputs=(TensorSpec("x", "FP32", (-1,)),), options={"threads": 2},
    )
    record = ModelRecord(name="m", spec=spec, revisions=(revision,))
    assert records.decode("m", records.encode(record)) == record


@pytest.mark.parametrize("named", [None, "triton", "shoal"])
def test_a_chosen_runtime_comes_back_in_little_room(named: str | None) -> None:
    spec = ModelSpec(name="m", uri="/srv/m.plan", format="tensorrt", format_version="8",
                     protocol="v2", runtime=named)
    for chosen in ("triton", None):
        revision = make_revision(
            msgspec.structs.replace(spec, runtime=chosen), version=1, uri=spec.uri,
            format="tensorrt", artifact_digest=DIGEST, files_bytes=711)
        record = ModelRecord(name="m", spec=spec, revisions=(revision,))
        assert records.decode("m", records.encode(record)) == record
        assert len(records.encode(record)) < 200


def test_why_nothing_is_served_comes_back() -> None:
    record = ModelRecord(name="m", spec=ModelSpec(name="m", uri="/m"), problem="no runtime",
                         problem_code="NO_SUPPORTING_RUNTIME")
    assert records.decode("m", records.encode(record)) == record


def test_the_ids_of_revisions_stay_what_they_were_before_there_were_runtimes() -> None:
    plain = ModelSpec(name="m", uri="/m.onnx")
    rich = ModelSpec(
        name="m", uri="/m", format="onnx", credentials="farm", trust="code", priority=3, pin=True,
        inputs=(TensorSpec("x", "FP32", (-1, 4)),), options={"a": 1}, optimize="auto")
    ids = [make_revision(each, version=2, uri="/m.onnx", format="onnx", artifact_digest=DIGEST,
                         files_bytes=711).id for each in (plain, rich)]
    assert ids == ["m@2-4b89d4e4fcac", "m@2-27cce5aacf96"]


def test_another_runtime_makes_another_revision() -> None:
    spec = ModelSpec(name="m", uri="/m.onnx")
    ids = {make_revision(msgspec.structs.replace(spec, runtime=each), version=1, uri=spec.uri,
                         format="onnx", artifact_digest=DIGEST, files_bytes=1).id
           for each in (None, "shoal", "triton", "mlserver")}
    assert len(ids) == 3  # `shoal` is what loads when none is named


def test_a_path_elsewhere_comes_back() -> None:
    spec = ModelSpec(name="m", uri="/m")
    revision = make_revision(
        spec, version=1, uri="/elsewhere/m.onnx", format="onnx", artifact_digest=DIGEST,
        files_bytes=1,
    )
    record = ModelRecord(name="m", spec=spec, revisions=(revision,))
    assert records.decode("m", records.encode(record)) == record


def test_a_plain_record_takes_some_hundred_bytes() -> None:
    record = simple()
    assert len(records.encode(record)) <= 110
    assert len(records.encode(record)) < len(msgspec.json.encode(record)) / 3


def test_what_an_unread_model_says_of_its_revision_takes_no_room() -> None:
    record = simple()
    spec = msgspec.structs.replace(record.spec, format="onnx", digest=DIGEST)
    unread = msgspec.structs.replace(record, spec=spec)
    assert len(records.encode(unread)) == len(records.encode(record))
    assert records.decode(record.name, records.encode(unread)) == unread


def test_records_of_earlier_releases_are_read_and_made_compact() -> None:
    record = simple()
    written = msgspec.json.encode(record)
    assert records.decode(record.name, written) == record
    assert records.compact(record.name, written) == records.encode(record)


def test_what_is_compact_is_left_as_it_is() -> None:
    encoded = records.encode(simple())
    assert records.compact("tenant-0000001", encoded) is encoded


@pytest.mark.parametrize("pin", [True, False])
def test_pinned_models_are_known_without_reading(pin: bool) -> None:
    spec = ModelSpec(name="m", uri="/m", pin=pin)
    assert records.is_pinned(records.encode(made(spec, 1))) is pin


@pytest.mark.parametrize("value", [b"", b"\x02", b"\x01", b"\x01\x90", b"\x01\xff", b"{}", b"nope"])
def test_what_is_no_record_is_refused(value: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        records.decode("m", value)


@pytest.mark.parametrize(
    "text", ["", "sha256:", "md5:" + "0" * 64, "sha256:" + "0F" * 32, "sha256:" + "zz" * 32,
             "sha256:" + " 0" * 32]
)
def test_only_digests_as_they_are_written_are_packed(text: str) -> None:
    assert records.pack_digest(text) is None


def test_a_digest_comes_back() -> None:
    packed = records.pack_digest(DIGEST)
    assert packed is not None
    assert len(packed) == 32
    assert records.unpack_digest(packed) == DIGEST
