"""Models of MLflow's registry: a real tracking server, and what it leads to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.canned_server import Canned, CannedServer, canned_server, json_of
from tests.mlflow_server import START_S, MlflowServer, mlflow_server
from tests.object_stores import KEYS, S3Server
from tests.remote_fakes import read_all
from tests.served import Served, until

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidSpecification,
    PlaceDenied,
    PlaceUnavailable,
)
from shoal.storage.download import download
from shoal.storage.places.credentials import Access, Credentials, FileSource
from shoal.storage.places.known import place_for
from shoal.storage.places.mlflow_registry import MlflowRegistry
from shoal.storage.places.mlflow_server import TrackingServer
from shoal.storage.places.place import Files, Place
from shoal.storage.places.reach import Reach
from shoal.storage.places.web_client import Patience

MLMODEL = (b"flavors:\n  python_function:\n    loader_module: mlflow.onnx\n"
           b"  onnx:\n    data: model.onnx\n")


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


def model(weights: bytes = b"weights") -> dict[str, bytes]:
    return {"MLmodel": MLMODEL, "model.onnx": weights, "metadata/about": b""}


def nowhere(uri: str) -> Place:
    raise AssertionError(uri)


def place(url: str, **fields: str) -> MlflowRegistry:
    access = Access("ours", "mlflow", {"tracking_uri": url, **fields})
    return MlflowRegistry(
        TrackingServer(access, Reach(), Patience(attempts=1, silence_s=START_S)), nowhere)


# --- what a URI means ---------------------------------------------------------------------------


def test_an_alias_means_the_version_that_it_is_set_to(mlflow: MlflowServer) -> None:
    first = mlflow.version("alias", model(b"1"))
    second = mlflow.version("alias", model(b"2"))
    mlflow.alias("alias", "champion", first)
    here = place(mlflow.url)
    before = here.look("models:/alias@champion")
    assert before.uri == f"models:/alias/{first}"
    assert read_all(here, before) == model(b"1")
    mlflow.alias("alias", "champion", second)
    after = here.look("models:/alias@champion")
    assert after.uri == f"models:/alias/{second}"
    assert after.tag != before.tag
    assert here.look(before.uri) == before


def test_latest_is_the_newest_version(mlflow: MlflowServer) -> None:
    mlflow.version("latest", model(b"1"))
    newest = mlflow.version("latest", model(b"2"))
    assert place(mlflow.url).look("models:/latest/latest").uri == f"models:/latest/{newest}"
    assert place(mlflow.url).look("models:/latest/LATEST").uri == f"models:/latest/{newest}"


def test_a_stage_is_the_newest_version_in_it(mlflow: MlflowServer) -> None:
    first = mlflow.version("stages", model())
    mlflow.version("stages", model())
    mlflow.post("model-versions/transition-stage", name="stages", version=first,
                stage="Production", archive_existing_versions=False)
    assert place(mlflow.url).look("models:/stages/production").uri == f"models:/stages/{first}"
    with pytest.raises(ArtifactMissing, match="no version of the model 'stages' that is Staging"):
        place(mlflow.url).look("models:/stages/Staging")


def test_a_logged_model_and_the_artifacts_of_a_run_have_uris_too(mlflow: MlflowServer) -> None:
    logged = mlflow.logged(model())
    run = mlflow.post("runs/create", experiment_id="0")["run"]["info"]
    mlflow.put(f"{run['artifact_uri']}/net", model())
    for uri in (f"models:/{logged['model_id']}", f"runs:/{run['run_id']}/net",
                f"{run['artifact_uri']}/net"):
        here = place(mlflow.url)
        assert read_all(here, here.look(uri))["model.onnx"] == b"weights"


def test_a_version_is_downloaded_with_all_its_folders(mlflow: MlflowServer, tmp_path: Path) -> None:
    version = mlflow.version("deep", {**model(b"x" * 100_000), "a/b/c": b"1", "a/d": b"2"})
    here = place(mlflow.url)
    download(here, here.look(f"models:/deep/{version}"), tmp_path / "deep")
    assert (tmp_path / "deep" / "a" / "b" / "c").read_bytes() == b"1"
    assert (tmp_path / "deep" / "model.onnx").read_bytes() == b"x" * 100_000


def test_a_lone_file_is_known_by_its_name(mlflow: MlflowServer) -> None:
    mlflow.put("mlflow-artifacts:/lone", {"weights.onnx": b"1"})
    here = place(mlflow.url)
    snapshot = here.look("mlflow-artifacts:/lone/weights.onnx")
    assert read_all(here, snapshot) == {"weights.onnx": b"1"}


# --- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(("uri", "story"), [
    ("models:/nobody/1", "nobody"), ("models:/nobody@champion", "nobody"),
    ("models:/nobody/latest", "nobody"), ("models:/known/77", "77"),
    ("models:/known@loser", "alias loser not found"), ("models:/m-0", "m-0"),
    ("runs:/0123/model", "0123"), ("mlflow-artifacts:/no/where", "no artifact there"),
])
def test_what_is_not_there_is_named(mlflow: MlflowServer, uri: str, story: str) -> None:
    mlflow.version("known", model())
    with pytest.raises(ArtifactMissing, match=story) as told:
        place(mlflow.url).look(uri)
    assert told.value.message.startswith(uri)


@pytest.mark.parametrize("uri", [
    "models:/", "models:/a/b/c", "models:/a@", "models:/a@b/1", "models://profile@host/a",
    "runs:/", "runs:/1/../2", "mlflow-artifacts:/", "mlflow-artifacts:/a/../b",
])
def test_what_means_nothing_to_mlflow_is_refused(uri: str) -> None:
    with pytest.raises(InvalidSpecification, match="names nothing that MLflow keeps"):
        place("http://127.0.0.1:1").look(uri)


def test_a_path_of_the_servers_machine_is_not_read(mlflow: MlflowServer) -> None:
    with canned_server() as server:
        lead(server, "file:///etc")
        with pytest.raises(InvalidSpecification, match="file:///etc, a path of its own machine"):
            place(server.url).look("models:/iris@champion")


def test_artifacts_of_another_server_are_not_asked_for() -> None:
    with canned_server() as server:
        lead(server, "mlflow-artifacts://elsewhere:5000/iris")
        with pytest.raises(InvalidSpecification, match="at another server than"):
            place(server.url).look("models:/iris@champion")


def test_a_version_that_is_not_ready_is_waited_for() -> None:
    with canned_server() as server:
        server.answers("GET /api/2.0/mlflow/registered-models/alias", json_of(
            {"model_version": {"name": "iris", "version": "1", "status": "PENDING_REGISTRATION"}}))
        with pytest.raises(ArtifactMissing, match="not ready in MLflow"):
            place(server.url).look("models:/iris@champion")


def test_a_server_that_is_away_is_tried_later() -> None:
    with pytest.raises(PlaceUnavailable, match="refuses connections"):
        place("http://127.0.0.1:1").look("models:/iris/1")
    with canned_server() as server:
        server.answers("GET /api/2.0/mlflow/model-versions/get",
                       Canned(503, b"", {"Retry-After": "17"}))
        with pytest.raises(PlaceUnavailable) as told:
            place(server.url).look("models:/iris/1")
        assert told.value.retry_after_s == 17


def test_another_server_than_mlflows_is_told() -> None:
    with canned_server() as server:
        server.answers("GET /api/2.0/mlflow/model-versions/get", Canned(404, b"<html>"))
        with pytest.raises(PlaceUnavailable, match="no MLflow server does"):
            place(server.url).look("models:/iris/1")


def lead(server: CannedServer, at: str) -> None:
    """Answers as MLflow does for an alias whose version lies at `at`."""
    server.answers("GET /api/2.0/mlflow/registered-models/alias", json_of(
        {"model_version": {"name": "iris", "version": "3", "status": "READY"}}))
    server.answers("GET /api/2.0/mlflow/model-versions/get-download-uri",
                   json_of({"artifact_uri": at}))


# --- who asks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "header"), [
    ({"username": "me", "password": "pw"}, "Basic bWU6cHc="), ({"token": "SECRET"}, "Bearer SECRET")
], ids=["password", "token"])
def test_credentials_are_sent_and_never_told(fields: dict[str, str], header: str) -> None:
    with canned_server() as server:
        server.answers("GET /api/2.0/mlflow/model-versions/get", Canned(401))
        with pytest.raises(PlaceDenied, match="the credentials 'ours'") as told:
            place(server.url, **fields).look("models:/iris/1")
        assert server.asked[0].headers["authorization"] == header
        assert "SECRET" not in told.value.message


def test_the_environment_says_which_server_and_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    with canned_server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server.url}/mlflow/")
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
        server.answers("GET /mlflow/api/2.0/mlflow/model-versions/get", Canned(403))
        with pytest.raises(PlaceDenied, match="those of the environment"):
            place_for("models:/iris/1", Credentials()).look("models:/iris/1")
        assert server.asked[0].headers["authorization"] == "Bearer t"
        monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
        with pytest.raises(PlaceDenied, match="set MLFLOW_TRACKING_USERNAME"):
            place_for("models:/iris/1", Credentials()).look("models:/iris/1")


@pytest.mark.parametrize(("uri", "story"), [
    ("", "says no MLflow server"), ("databricks", "names no server over HTTP"),
    ("sqlite:///mlflow.db", "but sqlite"),
])
def test_a_tracking_uri_that_is_no_server_is_told(uri: str, story: str) -> None:
    with pytest.raises(InvalidSpecification, match=story):
        place(uri)


def test_it_may_lead_to_another_place(s3_server: S3Server, tmp_path: Path) -> None:
    bucket = s3_server.bucket({"iris/MLmodel": MLMODEL, "iris/model.onnx": b"weights"})
    with canned_server() as server:
        lead(server, f"s3://{bucket}/iris")
        (tmp_path / "storage-config").write_text(json.dumps({
            "default_s3": {"type": "s3", "endpoint_url": s3_server.url, "region": "us-east-1",
                           **KEYS},
            "ours": {"type": "mlflow", "tracking_uri": server.url}}))
        credentials = Credentials([FileSource(tmp_path / "storage-config")])
        here = place_for("models:/iris@champion", credentials, "ours")
        assert isinstance(here, Files)
        snapshot = here.look("models:/iris@champion")
        assert snapshot.uri == "models:/iris/3"
        assert here.ranges
        assert read_all(here, snapshot) == {"MLmodel": MLMODEL, "model.onnx": b"weights"}


# --- served -------------------------------------------------------------------------------------


def adding(number: float) -> bytes:
    """A network whose `y` is `x` and this number."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "number"], ["y"])], "adding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("number", TensorProto.FLOAT, [1], [number])])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = made.SerializeToString()
    return data


def answer(served: Served, name: str) -> object:
    body: dict[str, object] = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}]}
    said = served.infer(name, body)
    assert said.status_code == 200, said.text
    return said.json()["outputs"][0]["data"]


def test_a_moved_alias_is_a_new_revision(mlflow: MlflowServer, tmp_path: Path) -> None:
    first, second = (mlflow.version("net", model(adding(number))) for number in (1.0, 2.0))
    mlflow.alias("net", "champion", first)
    with Served("models:/net@champion", "--storage-poll-s", "0.5", "--folder-settle-s", "0",
                data_dir=tmp_path / "data", environ={"MLFLOW_TRACKING_URI": mlflow.url}) as served:
        assert answer(served, "net") == [2.0]
        assert served.client.model("net").versions[0].uri == f"models:/net/{first}#model.onnx"
        mlflow.alias("net", "champion", second)
        until(lambda: answer(served, "net") == [3.0], "the new version", START_S)
        served.client.register("again", f"models:/net/{first}")
        assert answer(served, "again") == [2.0]
        with pytest.raises(ArtifactMissing, match="alias loser not found"):
            served.client.register("other", "models:/net@loser")
