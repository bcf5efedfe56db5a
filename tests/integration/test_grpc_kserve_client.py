"""KServe's SDK against the gRPC port, unchanged, from an environment of its own: it needs other
versions of what Shoal needs too."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.conftest import ROOT

if TYPE_CHECKING:
    from tests.integration.conftest import Public

PYTHON = ROOT / ".venv" / "kserve-client" / "bin" / "python"


@pytest.mark.skipif(not PYTHON.exists(), reason="make .venv/kserve-client/.installed")
def test_the_sdk_asks_and_reads_raw_and_typed_tensors(public: Public) -> None:
    done = subprocess.run(
        [str(PYTHON), str(ROOT / "tests" / "kserve_client.py"), public.server.grpc],
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "model 'nope' is not registered" in found.pop("unknown model")
    assert found == {
        "live": True, "ready": True, "model ready": True, "floats raw": True,
        "floats typed": True, "integers raw": True, "integers typed": True, "half raw": True,
    }
