"""Real MLServer, from its own environment: its answers are those of the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.conftest import ROOT
from tests.external import external, load, revision_of

from shoal.codecs import protobuf
from shoal.domain.errors import InvalidArtifact, InvalidInput
from shoal.domain.serving_runtime import ServingRuntime, SupportedFormat
from shoal.domain.signature import TensorSpec
from shoal.external.repository import SERVICE
from shoal.external.servers import ExternalServers

MLSERVER = ROOT / ".venv" / "mlserver" / "bin" / "mlserver"
SERVING = ServingRuntime(
    name="mlserver", formats=(SupportedFormat("sklearn"),), serves="mlserver",
    command=(str(MLSERVER), "start", "{models}"), start_timeout_s=120.0)
X = np.random.default_rng(1).random((40, 3))

pytestmark = pytest.mark.skipif(
    not MLSERVER.exists(), reason="make .venv/mlserver/.installed")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExternalServers]:
    made = external(tmp_path_factory.mktemp("external"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def classifier() -> LogisticRegression:
    return LogisticRegression().fit(X, X.sum(1) > 1.5)


def saved(model: LogisticRegression, folder: Path) -> Path:
    path = folder / "model.joblib"
    joblib.dump(model, path)
    return path


def test_its_answers_are_the_models_own(
    servers: ExternalServers, classifier: LogisticRegression, tmp_path: Path
) -> None:
    path = saved(classifier, tmp_path)
    model = load(servers, SERVING, revision_of(
        path, "sklearn", "own", inputs=(TensorSpec("x", "FP64", (-1, 3)),),
        outputs=(TensorSpec("predict", "INT64", (-1, 1)),
                 TensorSpec("predict_proba", "FP64", (-1, 2)))))
    assert model.signature.inputs == (TensorSpec("x", "FP64", (-1, 3)),)
    answer = model.predict({"x": X}, {}, ("predict", "predict_proba"))
    np.testing.assert_array_equal(answer["predict"].ravel(), classifier.predict(X))
    np.testing.assert_allclose(
        answer["predict_proba"].astype("f8"), classifier.predict_proba(X))
    with pytest.raises(InvalidInput, match="only supports 'predict'"):
        model.predict({"x": X}, {}, ("nothing",))


def test_a_model_that_somebody_unloaded_is_loaded_again(
    servers: ExternalServers, classifier: LogisticRegression, tmp_path: Path
) -> None:
    model = load(servers, SERVING, revision_of(saved(classifier, tmp_path), "sklearn", "lost"))
    session = model._server.session()
    session._data.ask(
        f"{SERVICE}RepositoryModelUnload",
        protobuf.write("inference.RepositoryModelUnloadRequest", {"model_name": model._slot.id}),
        10.0)
    answer = model.predict({"x": X}, {})
    np.testing.assert_array_equal(answer["predict"].ravel(), classifier.predict(X))


def test_files_that_it_cannot_read_are_refused(servers: ExternalServers, tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(b"no pickle")
    with pytest.raises(InvalidArtifact, match=r"'mlserver' cannot load model\.joblib"):
        load(servers, SERVING, revision_of(path, "sklearn", "broken"))
