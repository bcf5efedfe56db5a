"""What an artifact says of itself, or what is described beside it, opens nothing: neither further
types of skops files, nor files outside it that an ONNX model names."""

from __future__ import annotations

import io
import json
import tarfile
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import skops.io
from onnx import TensorProto, helper
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tests.object_stores import KEYS, S3Server

from shoal.domain.errors import InvalidArtifact, InvalidSpecification, NotTrusted
from shoal.domain.model import ModelSpec
from shoal.node.loader import Loader
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.declare import declare
from shoal.storage.disk_cache import DiskCache
from shoal.storage.fetching import Fetching
from shoal.storage.places.credentials import Credentials, FileSource

RUNTIMES = RuntimeRegistry.installed()


def load(uri: str, fetching: Fetching | None = None, types: tuple[str, ...] = ()) -> None:
    """Declare it as a registration does, check it, load it and close it."""
    record = declare(ModelSpec(name="m", uri=uri), RUNTIMES, registered_at=0.0, elsewhere=fetching)
    loader = Loader(RUNTIMES, (), types, 1, fetching)
    loader.check(record.revisions[0])
    loader.close(loader.load(record.revisions[0]).model)


# --- skops ----------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with a skops file that holds a type which skops does not know."""
    pipeline = make_pipeline(FunctionTransformer(), LinearRegression())
    pipeline.fit(np.eye(3), np.arange(3.0)).steps[0][1].inverse_func = textwrap.indent
    (tmp_path / "odd").mkdir()
    skops.io.dump(pipeline, tmp_path / "odd/model.skops")
    return tmp_path / "odd"


def unknown(folder: Path) -> tuple[str, ...]:
    return tuple(skops.io.get_untrusted_types(file=folder / "model.skops"))


def test_the_server_s_settings_name_further_types(odd: Path) -> None:
    with pytest.raises(NotTrusted, match=r"trust\.skops_types"):
        load(str(odd))
    load(str(odd), types=unknown(odd))


@pytest.mark.parametrize("field", ["trusted_types", "trusted", "skops_types"])
def test_a_description_names_none(odd: Path, field: str) -> None:
    (odd / "model.yaml").write_text(json.dumps({"options": {field: unknown(odd)}}))
    with pytest.raises(InvalidSpecification, match=f"unknown options {field}"):
        load(str(odd))


def test_a_description_cannot_grant_trust(odd: Path) -> None:
    (odd / "model.yaml").write_text("trust: code\n")
    with pytest.raises(NotTrusted, match=r"trust\.skops_types"):
        load(str(odd))


def test_an_mlflow_model_that_names_types_counts_as_code(odd: Path) -> None:
    flavour = {"serialization_format": "skops", "skops_trusted_types": unknown(odd),
               "pickled_model": "model.skops", "sklearn_version": "1.7"}
    loader = {"loader_module": "mlflow.sklearn", "model_path": "model.skops"}
    (odd / "MLmodel").write_text(
        json.dumps({"flavors": {"sklearn": flavour, "python_function": loader}}))
    with pytest.raises(NotTrusted, match="lies outside the trusted locations"):
        load(str(odd))


# --- ONNX -----------------------------------------------------------------------------------------

WEIGHTS = np.arange(3, dtype=np.float32).tobytes()


def net(location: str) -> bytes:
    """An ONNX model that keeps its weights in the file `location`."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3],
                         data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def here(files: dict[str, bytes], tmp_path: Path, store: S3Server) -> str:
    for name, content in files.items():
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(tmp_path / "models/net")


def in_a_bucket(files: dict[str, bytes], tmp_path: Path, store: S3Server) -> str:
    return f"s3://{store.bucket(files)}/net"


def alone_in_a_bucket(files: dict[str, bytes], tmp_path: Path, store: S3Server) -> str:
    return f"s3://{store.bucket(files)}/net/model.onnx"


def in_an_archive(files: dict[str, bytes], tmp_path: Path, store: S3Server) -> str:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return f"s3://{store.bucket({'m.tgz': packed.getvalue()})}/m.tgz"


PLACES = pytest.mark.parametrize("lay", [here, in_a_bucket, alone_in_a_bucket, in_an_archive])


@pytest.fixture
def loaded(tmp_path: Path, s3_server: S3Server) -> Callable[..., None]:
    credentials = tmp_path / "storage-config"
    credentials.write_text(json.dumps({"default_s3": {
        "type": "s3", "endpoint_url": s3_server.url, "region": "us-east-1", **KEYS}}))

    def loaded(lay: Callable[..., str], files: dict[str, bytes]) -> None:
        with closing(Fetching(lambda: DiskCache(tmp_path / "cache", 10**9),
                              Credentials([FileSource(credentials)]))) as fetching:
            load(lay(files, tmp_path, s3_server), fetching)

    return loaded


@PLACES
def test_weights_beside_a_model_are_read(loaded: Callable[..., None], lay: Callable[..., str]
                                         ) -> None:
    loaded(lay, {"net/model.onnx": net("model.onnx.data"), "net/model.onnx.data": WEIGHTS})


@PLACES
@pytest.mark.parametrize("location", [
    "weights.bin", "../weights.bin", "inner/../../weights.bin", "/etc/hostname",
    "./../net/weights.bin", "file:///etc/hostname",
])
def test_weights_elsewhere_are_not(
    loaded: Callable[..., None], lay: Callable[..., str], location: str
) -> None:
    files = {"net/model.onnx": net(location), "net/model.yaml": b"uri: model.onnx\n"}
    if lay is not in_an_archive:  # where all lies in one folder
        files |= {"weights.bin": WEIGHTS, "net/weights.bin": WEIGHTS}
    with pytest.raises(InvalidArtifact, match="which is no part of it"):
        loaded(lay, files)
