"""Models that lie elsewhere, as users see them: registered or watched, loaded, kept, refused."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from examples.cases import Case
from tests.canned_server import Canned, canned_server
from tests.faulty_proxy import Fault, FaultyProxy
from tests.object_stores import KEYS, S3Server
from tests.served import Served, until

from shoal.domain.errors import ArtifactMissing, InvalidSpecification, NotTrusted

QUICK = ("--folder-settle-s", "0", "--storage-poll-s", "0.2")


class World:
    """A bucket with examples, and servers that may read it by the credentials `farm`."""

    def __init__(self, store: S3Server, folder: Path, cases: dict[str, Case], tmp_path: Path
                 ) -> None:
        self.store = store
        self.folder = folder
        self.cases = cases
        self.tmp_path = tmp_path
        self.bucket = store.bucket()
        self.credentials = tmp_path / "storage-config"
        self.credentials.mkdir()
        (self.credentials / "farm").write_text(json.dumps(
            {"type": "s3", "endpoint_url": store.url, "region": "us-east-1", **KEYS}))
        (self.credentials / "default_s3").write_text((self.credentials / "farm").read_text())

    def upload(self, name: str, to: str = "models") -> str:
        """The URI of an example in the bucket."""
        path = self.folder / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                inside = file.relative_to(self.folder).as_posix()
                self.store.put(self.bucket, f"{to}/{inside}", file.read_bytes())
        return f"s3://{self.bucket}/{to}/{name}"

    def serve(self, *arguments: str | Path, data: str = "data") -> Served:
        return Served(
            *arguments, *QUICK, "--storage-credentials", self.credentials,
            data_dir=self.tmp_path / data)

    def check(self, served: Served, name: str, case: str | None = None) -> None:
        case_of = self.cases[case or name]
        answer = served.infer(name, case_of.request)
        assert answer.status_code == 200, answer.text
        for expected, given in zip(
                case_of.expect["outputs"], answer.json()["outputs"], strict=False):
            if expected["datatype"] == "BYTES":
                assert given["data"] == expected["data"]
            else:
                assert given["data"] == pytest.approx(expected["data"], rel=1e-5)


@pytest.fixture
def world(
    s3_server: S3Server, example_cases: tuple[Path, list[Case]], tmp_path: Path
) -> World:
    folder, cases = example_cases
    named = {f"{case.model}-{case.version}" if case.version else case.model: case
             for case in cases}
    return World(s3_server, folder, named, tmp_path)


@pytest.fixture
def served(world: World) -> Iterator[Served]:
    with world.serve("--trust-locations", f"s3://{world.bucket}/models") as served:
        yield served


def test_models_of_a_bucket_are_registered_and_answer(world: World, served: Served) -> None:
    for name in ("iris", "digits-net", "mood", "grapes.txt"):
        served.client.register(name.partition(".")[0], world.upload(name))
        if name != "grapes.txt":
            world.check(served, name)
    world.check(served, "grapes")
    model = served.client.model("digits-net")
    assert model.versions[0].uri == f"s3://{world.bucket}/models/digits-net/1/model.pt"
    assert [(spec.name, list(spec.shape)) for spec in model.inputs] == [("INPUT__0", [-1, 1, 8, 8])]


def test_all_versions_come_and_only_those_that_are_served(world: World, served: Served) -> None:
    uri = world.upload("prices")
    served.client.register("prices", uri, version_policy={"latest": 1})
    assert [each.version for each in served.client.model("prices").versions] == [2]
    served.client.register("prices", uri)
    assert [each.version for each in served.client.model("prices").versions] == [1, 2]
    assert served.infer("prices", world.cases["prices-1"].request, 1).status_code == 200


def test_what_was_loaded_once_is_loaded_without_its_place(world: World) -> None:
    with world.serve() as served:
        served.client.register("net", world.upload("iris-net"))
        world.check(served, "net", "iris-net")
    (world.credentials / "farm").unlink()
    (world.credentials / "default_s3").write_text(json.dumps(
        {"type": "s3", "endpoint_url": "http://127.0.0.1:1", "region": "us-east-1", **KEYS}))
    with world.serve() as served:
        world.check(served, "net", "iris-net")


def test_another_instance_fetches_what_one_has_registered(world: World) -> None:
    registry = f"sqlite:{world.tmp_path}/registry"
    with world.serve("--registry-url", registry) as served:
        served.client.register("net", world.upload("iris-net"))
    with world.serve("--registry-url", registry, data="other") as served:
        world.check(served, "net", "iris-net")


def test_named_credentials_are_used_and_wrong_ones_are_told(world: World) -> None:
    (world.credentials / "default_s3").unlink()
    uri = world.upload("iris-net")
    with world.serve() as served:
        served.client.register("net", uri, credentials="farm")
        world.check(served, "net", "iris-net")
        with pytest.raises(InvalidSpecification, match=r"'fram'.*farm"):
            served.client.register("other", uri, credentials="fram")
    assert KEYS["secret_access_key"] not in json.dumps(served.logs)


def test_code_of_another_place_runs_only_where_somebody_allowed_it(world: World) -> None:
    uri = world.upload("iris")
    with world.serve() as served:
        with pytest.raises(NotTrusted, match=r"s3://\S+ lies outside .*'trust: code'"):
            served.client.register("iris", uri)
        served.client.register("iris", uri, trust="code")
        world.check(served, "iris")
        with pytest.raises(NotTrusted, match="'trust: data'"):
            served.client.register("iris", uri, trust="data")


def test_what_an_artifact_says_of_its_own_trust_counts_for_nothing(world: World) -> None:
    world.store.put(world.bucket, "models/iris/model.yaml", b"trust: code\n")
    with world.serve() as served, pytest.raises(NotTrusted, match="lies outside"):
        served.client.register("iris", world.upload("iris"))


def test_errors_name_the_uri_rather_than_where_it_is_looked_at(
    world: World, served: Served
) -> None:
    with pytest.raises(ArtifactMissing, match=rf"s3://{world.bucket}/nothing does not exist"):
        served.client.register("nothing", f"s3://{world.bucket}/nothing")
    world.upload("iris-net", to="two")
    world.store.put(world.bucket, "two/iris-net/other.onnx", b"")
    with pytest.raises(InvalidSpecification, match=rf"s3://{world.bucket}/two/iris-net.* several"):
        served.client.register("two", f"s3://{world.bucket}/two/iris-net")
    world.store.put(world.bucket, "out/m/model.yaml", b"uri: /etc/hostname\n")
    with pytest.raises(InvalidSpecification, match="leads out of it"):
        served.client.register("out", f"s3://{world.bucket}/out/m")


def test_other_content_than_was_declared_is_never_loaded(world: World) -> None:
    uri = world.upload("iris-net")
    with world.serve() as served:
        served.client.register("net", uri)
        key = "models/iris-net/model.onnx"
        shutil.rmtree(world.tmp_path / "data/artifacts")
        world.store.put(world.bucket, key, b"something else")
    with world.serve(data="data") as served:
        answer = served.infer("net", world.cases["iris-net"].request)
        assert answer.status_code == 503
        assert "not what was declared" in answer.json()["error"]


def test_weights_beside_a_lone_file_come_with_it(world: World, served: Served) -> None:
    import onnx

    path = world.tmp_path / "split/model.onnx"
    path.parent.mkdir()
    model = onnx.load(world.folder / "iris-net/model.onnx")
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    for file in path.parent.iterdir():
        world.store.put(world.bucket, f"split/{file.name}", file.read_bytes())
    served.client.register("net", f"s3://{world.bucket}/split/model.onnx")
    world.check(served, "net", "iris-net")


def test_an_archive_is_unpacked(world: World, served: Served) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(world.folder / "digits-net", "digits-net")
    world.store.put(world.bucket, "packed/digits-net.tgz", packed.getvalue())
    world.store.publish(world.bucket, "packed/digits-net.tgz")
    uri = f"{world.store.url}/{world.bucket}/packed/digits-net.tgz"
    served.client.register("digits-net", uri)
    world.check(served, "digits-net")
    assert served.client.model("digits-net").versions[0].uri == f"{uri}#1/model.pt"


def test_a_download_that_comes_on_is_waited_for_and_shown(world: World) -> None:
    """However long it takes: `load.timeout_s` is for what hangs."""
    uri = world.upload("mood")
    world.store.put(world.bucket, "models/mood/blob.bin", bytes(3_000_000))
    registry = ("--registry-url", f"sqlite:{world.tmp_path}/registry", "--cache-fill", "none")
    with world.serve(*registry) as served:
        served.client.register("mood", uri, trust="code")
    with FaultyProxy(world.store.url) as proxy:
        (world.credentials / "default_s3").write_text(json.dumps(
            {"type": "s3", "endpoint_url": proxy.url, "region": "us-east-1", **KEYS}))
        def delay() -> None:
            proxy.ended.wait(0.1)

        proxy.fail(Fault(), None, where="blob", before=delay)
        # Sixty parts, a tenth of a second or more each: longer together than a load may hang.
        slowly = ("--storage-part-size", "50KiB", "--storage-connections", "1")
        with world.serve(*registry, *slowly, "--load-timeout-s", "5", data="other") as served:
            served.client.load("mood", wait=False)
            seen: set[int] = set()

            def comes_on() -> bool:
                for copy in served.client.model("mood").where:
                    if copy.downloaded_bytes is not None:
                        assert copy.download_bytes is not None
                        assert copy.download_bytes > 3_000_000
                        seen.add(copy.downloaded_bytes)
                return len(seen) > 15

            until(comes_on, "a download")
            until(lambda: states(served)["mood"] == "ready", "its end")
            assert not [each for each in served.logs if each.get("kind") == "load_failed"]


def test_a_download_keeps_no_other_model_waiting(world: World) -> None:
    uri = world.upload("mood")
    world.store.put(world.bucket, "models/mood/blob.bin", bytes(100_000))
    registry = ("--registry-url", f"sqlite:{world.tmp_path}/registry", "--cache-fill", "none")
    with world.serve(*registry) as served:
        served.client.register("mood", uri, trust="code")
        served.client.register("net", str(world.folder / "iris-net"))
    come = threading.Event()

    def hold() -> None:
        come.wait(30)

    with FaultyProxy(world.store.url) as proxy:
        (world.credentials / "default_s3").write_text(json.dumps(
            {"type": "s3", "endpoint_url": proxy.url, "region": "us-east-1", **KEYS}))
        proxy.fail(Fault(), None, where="blob", before=hold)
        with world.serve(*registry, "--load-concurrency", "1", data="other") as served:
            served.client.load("mood", wait=False)
            until(lambda: proxy.count(where="blob"), "a download")
            world.check(served, "net", "iris-net")
            assert states(served)["mood"] == "loading"
            come.set()
            until(lambda: states(served)["mood"] == "ready", "its end")


def test_a_lone_file_that_can_have_no_company_is_asked_for_alone(
        world: World, served: Served) -> None:
    with FaultyProxy(world.store.url) as proxy:
        (world.credentials / "default_s3").write_text(json.dumps(
            {"type": "s3", "endpoint_url": proxy.url, "region": "us-east-1", **KEYS}))
        served.client.register("grapes", world.upload("grapes.txt"))
        world.check(served, "grapes")
        assert proxy.count(where="grapes.txt")
        assert not proxy.count(where="grapes.txt.data")


def test_an_answer_says_when_a_busy_place_may_be_asked_again(world: World) -> None:
    with canned_server() as hub:
        hub.answers("GET /api/models/acme/net/revision/main",
                    Canned(429, b"", {"Retry-After": "33"}))
        (world.credentials / "default_hf").write_text(json.dumps(
            {"type": "hf", "endpoint_url": hub.url}))
        with world.serve() as served:
            answer = httpx2.post(f"{served.management}/api/v1/models",
                                 json={"name": "net", "uri": "hf://acme/net"}, timeout=30)
            assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "33"), (
                answer.text)


# --- a watched folder ---------------------------------------------------------------------------


def states(served: Served) -> dict[str, str]:
    return {model.name: str(model.state) for model in served.client.models()}


def test_a_watched_prefix_is_followed(world: World) -> None:
    world.upload("iris-net")
    world.upload("prices")
    with world.serve(f"s3://{world.bucket}/models") as served:
        world.check(served, "iris-net")
        world.check(served, "prices", "prices-2")
        world.upload("grapes.txt")
        until(lambda: "grapes" in states(served), "a new model")
        world.check(served, "grapes")
        for version in ("1", "2"):
            world.store.delete(world.bucket, f"models/prices/{version}/model.joblib")
        until(lambda: "prices" not in states(served), "its removal")
        other = (world.folder / "prices/2/model.joblib").read_bytes()
        world.store.put(world.bucket, "models/iris-net/model.joblib", other)
        until(lambda: served.client.model("iris-net").problem is not None, "the trouble")
        problem = served.client.model("iris-net").problem
        assert problem is not None
        assert f"s3://{world.bucket}/models/iris-net holds several artifacts" in problem
        world.check(served, "iris-net")


def test_a_restart_reads_only_what_changed(world: World) -> None:
    for name in ("iris-net", "grapes.txt"):
        world.upload(name)
    prefix = f"s3://{world.bucket}/models"
    with world.serve(prefix) as served:
        assert len(states(served)) == 2
        assert len(_downloads(served)) == 2
        served.process.send_signal(signal.SIGKILL)
    with world.serve(prefix) as served:
        assert len(states(served)) == 2
        assert _downloads(served) == []
        world.check(served, "grapes")


def _downloads(served: Served) -> list[str]:
    return [str(each["event"]) for each in served.logs if each.get("kind") == "downloaded"]


def test_a_prefix_that_cannot_be_read_is_told_at_the_start(world: World) -> None:
    shoal = Path(sys.executable).with_name("shoal")
    ended = subprocess.run(
        [shoal, "serve", f"s3://{world.bucket}/empty", "--http-port", "0", "--grpc-port", "0",
         "--management-port", "0", "--data-dir", world.tmp_path / "data",
         "--storage-credentials", world.credentials],
        capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode > 0
    assert f"s3://{world.bucket}/empty cannot be served" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_description_in_a_watched_folder_may_lead_elsewhere(world: World) -> None:
    models = world.tmp_path / "models"
    models.mkdir()
    uri = world.upload("prices")
    (models / "flats.yaml").write_text(
        f"uri: {uri}\ncredentials: farm\nversion_policy: {{latest: 1}}\nlabels: {{team: city}}\n")
    with world.serve(models, "--trust-locations", uri) as served:
        model = served.client.model("flats")
        assert [(each.version, each.uri) for each in model.versions] == [
            (2, f"{uri}/2/model.joblib")]
        assert model.labels == {"team": "city"}
        world.check(served, "flats", "prices-2")
