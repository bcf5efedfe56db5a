"""Models registered in bulk at a real server: served, kept over a restart, and read lazily."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.served import Served

from shoal.client import Client
from shoal.domain.errors import StoreUnavailable
from shoal.domain.model import ModelRecord, ModelSpec, make_revision
from shoal.node.clock import SystemClock
from shoal.stores.sqlite import SqliteStore

BODY: dict[str, object] = {
    "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]
}


def onnx_adding(number: float) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"])], "adds",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(np.array([number], np.float32), "c")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = made.SerializeToString()
    return content


def put(folder: Path, number: int) -> Path:
    path = folder / f"m{number:03}.onnx"
    path.write_bytes(onnx_adding(float(number)))
    return path


def answer(served: Served, name: str) -> float:
    response = served.infer(name, BODY)
    assert response.status_code == 200, response.text
    (value,) = response.json()["outputs"][0]["data"]
    return float(value)


def unread(name: str, path: Path, content: bytes) -> Mapping[str, object]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"name": name, "uri": str(path), "format": "onnx", "digest": digest}


def test_what_is_registered_in_bulk_is_served_and_outlives_a_restart(tmp_path: Path) -> None:
    count = 60
    models = [
        {"name": f"m{number:03}", "uri": str(put(tmp_path, number))} for number in range(count)
    ]
    data_dir = tmp_path / "data"
    with Served("--cache-fill", "none", data_dir=data_dir) as served:
        results = list(served.client.register_many(models, page_size=25))
        assert all(each.ok and not each.unchanged for each in results)
        assert answer(served, "m007") == 8.0
    with Served("--cache-fill", "none", data_dir=data_dir) as served:
        assert served.client.status().models == count
        assert answer(served, "m042") == 43.0
        assert all(each.unchanged for each in served.client.register_many(models))
        gone = [each.unchanged for each in served.client.unregister_many(["m007", "m999"])]
        assert gone == [False, True]
        assert served.infer("m007", BODY).status_code == 404


def test_what_is_registered_unread_is_read_when_it_is_loaded(tmp_path: Path) -> None:
    content = onnx_adding(1.0)
    late, wrong, never = (tmp_path / f"{name}.onnx" for name in ("late", "wrong", "never"))
    with Served(data_dir=tmp_path / "data") as served:
        client: Client = served.client
        models = [unread(path.stem, path, content) for path in (late, wrong, never)]
        assert all(each.ok for each in client.register_many(models, read=False))
        late.write_bytes(content)
        wrong.write_bytes(onnx_adding(2.0))
        assert answer(served, "late") == 2.0
        refused = served.infer("wrong", BODY)
        assert refused.status_code == 503
        assert "is not what was declared: its digest is" in refused.json()["error"]
        missing = served.infer("never", BODY)
        assert missing.status_code == 503
        assert f"{never} does not exist" in missing.json()["error"]
        assert client.model("never").state == "failed"


def test_free_memory_is_not_filled_with_what_nobody_has_read(tmp_path: Path) -> None:
    content = onnx_adding(1.0)
    path = put(tmp_path, 1)
    with Served(data_dir=tmp_path / "data") as served:
        list(served.client.register_many([unread("unread", tmp_path / "no", content)], read=False))
        served.client.register("read", str(path))
        served.client.load("read")
        assert served.client.model("unread").state == "cold"
        assert served.client.status().totals.load_failures == 0


def record(name: str, path: Path) -> ModelRecord:
    spec = ModelSpec(name=name, uri=str(path))
    revision = make_revision(
        spec, version=1, uri=str(path), format="onnx", files_bytes=path.stat().st_size,
        artifact_digest=f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
    )
    return ModelRecord(name=name, spec=spec, revisions=(revision,), registered_at=1.0)


@pytest.fixture
def old_registry(tmp_path: Path) -> Path:
    """As the first release wrote it."""
    file = tmp_path / "data" / "registry.sqlite3"
    file.parent.mkdir()

    async def write() -> None:
        store = SqliteStore(file, SystemClock())
        value = msgspec.json.encode(record("old", put(tmp_path, 1)))
        await store.put("models/old", value)
        await store.put("usage/old", b'{"last_used":5.0,"size_bytes":70000}')
        await store.close()

    asyncio.run(write())
    with sqlite3.connect(file) as db:
        db.execute("UPDATE registry SET value = 1 WHERE name = 'schema'")
    db.close()
    return file


def test_a_registry_of_the_first_release_is_taken_over(tmp_path: Path, old_registry: Path) -> None:
    with Served("--cache-fill", "none", data_dir=old_registry.parent) as served:
        view = served.client.model("old")
        assert (view.state, view.registered_at) == ("cold", 1.0)
        assert answer(served, "old") == 2.0
        served.client.register("new", str(put(tmp_path, 2)))
        assert served.client.status().problems == []
    with sqlite3.connect(old_registry) as db:
        (schema,) = db.execute("SELECT value FROM registry WHERE name = 'schema'").fetchone()
        kept = dict(db.execute("SELECT key, value FROM entry"))
    db.close()
    assert schema == 2, "an earlier release must refuse it rather than misread it"
    assert kept[b"models/old"].startswith(b"{"), "what nobody changed is left as it was"
    assert not kept[b"models/new"].startswith(b"{")


def test_a_registry_of_a_later_release_is_refused(old_registry: Path) -> None:
    with sqlite3.connect(old_registry) as db:
        db.execute("UPDATE registry SET value = 3 WHERE name = 'schema'")
    db.close()
    with pytest.raises(StoreUnavailable, match="written by a newer Shoal"):
        SqliteStore(old_registry, SystemClock())
