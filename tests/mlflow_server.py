"""A real MLflow tracking server in a process of its own, as `mlflow server` runs it, and what fills
its registry over HTTP."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
from tests.program import running

START_S = 120.0
_RUNNING = re.compile(r"running on (http://[0-9.:]+)")


class MlflowServer:
    """url: its address."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx2.Client(base_url=url, timeout=START_S)

    def version(self, name: str, files: Mapping[str, bytes]) -> str:
        """A new version of the model `name`, which is made where it is missing, as `log_model`
        makes it; its number."""
        found = self._http.get("/api/2.0/mlflow/registered-models/get", params={"name": name})
        if found.status_code == 404:
            self.post("registered-models/create", name=name)
        model_id = self.logged(files)["model_id"]
        made = self.post("model-versions/create", name=name, source=f"models:/{model_id}",
                         model_id=model_id)
        return str(made["model_version"]["version"])

    def logged(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """A model that is not registered: `model_id`, `artifact_uri`."""
        found = self.post("logged-models", experiment_id="0", name="net")["model"]["info"]
        info: dict[str, str] = found
        self.put(info["artifact_uri"], files)
        return info

    def put(self, artifact_uri: str, files: Mapping[str, bytes]) -> None:
        path = artifact_uri.removeprefix("mlflow-artifacts:/")
        for name, data in files.items():
            self._http.put(f"/api/2.0/mlflow-artifacts/artifacts/{path}/{name}",
                           content=data).raise_for_status()

    def alias(self, name: str, alias: str, version: str) -> None:
        self.post("registered-models/alias", name=name, alias=alias, version=version)

    def post(self, what: str, **fields: object) -> dict[str, Any]:
        answer = self._http.post(f"/api/2.0/mlflow/{what}", json=fields)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def close(self) -> None:
        self._http.close()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[MlflowServer]:
    command = [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "0",
               "mlflow.server.fastapi_app:app"]
    environ = {"_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
               "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
               "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
               "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (running(command, folder, _RUNNING, START_S, environ) as url,
          closing(MlflowServer(url)) as server):
        server.post("runs/search", experiment_ids=["0"])  # the first request makes the tables
        yield server
