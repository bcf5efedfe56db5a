"""Anything at all, thrown at the public port: it is answered or refused in words."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.odd_models import ONE

if TYPE_CHECKING:
    from tests.integration.conftest import Public


X = ONE["inputs"][0]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["name", "datatype", "shape", "data", "parameters", "b64", "x"]), inner,
        max_size=5,
    ),
    max_leaves=12,
)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "left", "right", "predict", "text", ""]) | JSON,
        "datatype": st.sampled_from(["FP32", "INT64", "BYTES", "BOOL", "BF16", "FP64"]) | JSON,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | JSON,
        "data": st.lists(st.integers(-1, 300) | st.text(max_size=3), max_size=4) | JSON,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "content_type", "binary_data"]), JSON, max_size=2
        ),
    },
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "inputs": st.lists(TENSOR, max_size=3) | st.dictionaries(st.text(max_size=4), JSON) | JSON,
        "instances": st.lists(JSON, max_size=3) | JSON,
        "outputs": st.lists(TENSOR, max_size=2) | JSON,
        "parameters": st.dictionaries(
            st.sampled_from(["content_type", "binary_data_output", "x"]),
            st.sampled_from(["pd", "str", "np", True]) | JSON, max_size=2,
        ),
    },
) | JSON
PATHS = [
    f"/v2/models/{model}/infer" for model in ("echo", "pair", "iris", "text", "penguins")
] + [f"/v1/models/{model}:predict" for model in ("pair", "iris", "text", "penguins")] + [
    "/v2/repository/index", "/v2/repository/models/nope/load",
]


Kept: TypeAlias = http.client.HTTPConnection


@pytest.fixture(scope="module")
def kept(public: Public) -> Iterator[Kept]:
    """One connection for all that is thrown at the server."""
    connection = http.client.HTTPConnection(urlsplit(public.server.url).netloc, timeout=30)
    yield connection
    connection.close()


@settings(
    max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(path=st.sampled_from(PATHS), body=BODY)
@example(path=PATHS[0], body={"inputs": [{**X, "shape": [0, 2**63]}]})
@example(path=PATHS[0], body={"inputs": [{**X, "data": [10**400]}]})
def test_any_json_is_answered_or_refused(kept: Kept, path: str, body: object) -> None:
    check(kept, path, json.dumps(body).encode(), {})


@settings(
    max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(
    path=st.sampled_from(PATHS),
    body=st.binary(max_size=60),
    headers=st.dictionaries(
        st.sampled_from(["inference-header-content-length", "content-encoding", "accept-encoding",
                         "shoal-timeout-ms", "x-request-id", "content-type"]),
        st.sampled_from(["", "0", "3", "20", "gzip", "deflate", "identity;q=0", "\xe9", "*;q=x"]),
        max_size=3,
    ),
)
def test_any_bytes_and_headers_are_answered_or_refused(
    kept: Kept, path: str, body: bytes, headers: dict[str, str]
) -> None:
    check(kept, path, body, {"shoal-timeout-ms": "30000", **headers})


def check(kept: Kept, path: str, body: bytes, headers: dict[str, str]) -> None:
    """A good answer, or a client's fault in words; and the connection goes on."""
    kept.request("POST", path, body, headers)
    answer = kept.getresponse()
    content = answer.read()
    assert answer.status in (200, 400, 404) or (answer.status == 504 and "0" in headers.values())
    if answer.status != 200:
        assert json.loads(content).keys() == {"error"}
        assert answer.headers["x-request-id"]
    assert not answer.will_close
