"""What paths of the public port mean."""

from __future__ import annotations

import pytest

from shoal.dataplane.http.routes import LONGEST_KNOWN, Kind, Route, Routes, find
from shoal.domain.errors import (
    MethodNotAllowed,
    ModelNotFound,
    PathNotFound,
    ShoalError,
    VersionNotFound,
)


@pytest.mark.parametrize(
    ("method", "target", "route"),
    [
        ("GET", "/", Route(Kind.ALIVE)),
        ("GET", "/v2", Route(Kind.SERVER_METADATA)),
        ("GET", "/v2/health/live", Route(Kind.SERVER_LIVE)),
        ("GET", "/v2/health/ready", Route(Kind.SERVER_READY)),
        ("GET", "/v2/models", Route(Kind.MODELS)),
        ("GET", "/v2/models/stats", Route(Kind.ALL_STATISTICS)),
        ("GET", "/v2/models/m", Route(Kind.MODEL_METADATA, "m")),
        ("GET", "/v2/models/m/versions/3", Route(Kind.MODEL_METADATA, "m", 3)),
        ("GET", "/v2/models/m/ready", Route(Kind.MODEL_READY, "m")),
        ("GET", "/v2/models/m/versions/3/ready", Route(Kind.MODEL_READY, "m", 3)),
        ("GET", "/v2/models/m/config", Route(Kind.MODEL_CONFIG, "m")),
        ("GET", "/v2/models/m/versions/3/config", Route(Kind.MODEL_CONFIG, "m", 3)),
        ("GET", "/v2/models/m/stats", Route(Kind.MODEL_STATISTICS, "m")),
        ("GET", "/v2/models/m/versions/3/stats", Route(Kind.MODEL_STATISTICS, "m", 3)),
        ("POST", "/v2/models/m/infer", Route(Kind.INFER, "m")),
        ("POST", "/v2/models/m/versions/3/infer", Route(Kind.INFER, "m", 3)),
        ("POST", "/v2/repository/index", Route(Kind.INDEX)),
        ("POST", "/v2/repository/models/m/load", Route(Kind.LOAD, "m")),
        ("POST", "/v2/repository/models/m/unload", Route(Kind.UNLOAD, "m")),
        ("GET", "/v1/models", Route(Kind.V1_MODELS)),
        ("GET", "/v1/models/m", Route(Kind.V1_MODEL, "m")),
        ("GET", "/v1/models/m/versions/3", Route(Kind.V1_MODEL, "m", 3)),
        ("POST", "/v1/models/m:predict", Route(Kind.PREDICT, "m")),
        ("POST", "/v1/models/m/versions/3:predict", Route(Kind.PREDICT, "m", 3)),
    ],
)
def test_each_endpoint_has_its_path(method: str, target: str, route: Route) -> None:
    assert find(method, target) == route
    assert find(method, target.rstrip("/") + "/") == route
    if method == "GET":
        assert find("HEAD", target) == route


@pytest.mark.parametrize("name", ["infer", "ready", "versions", "stats", "models", "7", "a.b-c_d"])
def test_models_may_be_called_like_parts_of_paths(name: str) -> None:
    assert find("POST", f"/v2/models/{name}/infer") == Route(Kind.INFER, name)
    assert find("GET", f"/v2/models/{name}/versions/1/ready") == Route(Kind.MODEL_READY, name, 1)
    assert find("POST", f"/v1/models/{name}:predict") == Route(Kind.PREDICT, name)


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/v2/models/%6D%2d1/infer", Route(Kind.INFER, "m-1")),
        ("/v2/models/m/versions/%31/infer", Route(Kind.INFER, "m", 1)),
        ("/v1/models/m%3Apredict", Route(Kind.PREDICT, "m")),
        ("/v1/models/m%3apredict", Route(Kind.PREDICT, "m")),
    ],
)
def test_what_is_escaped_without_need_means_the_same(target: str, route: Route) -> None:
    assert find("POST", target) == route


@pytest.mark.parametrize(
    "target",
    ["*", "/v2//", "/V2", "/v2/models//infer", "/v2/models/a/b/infer", "/v2/health",
     "/v1/models/m:explain", "/v1/models/m:predict:predict", "/v2/models/m/versions",
     "/v2/models/m/infer/infer", "/v2/models/m/infer%2F",
     "/v2/repository/models/m/versions/1/load"],
)  # fmt: skip
def test_other_paths_lead_nowhere(target: str) -> None:
    for method in ("GET", "POST"):
        with pytest.raises(PathNotFound, match="there is nothing at"):
            find(method, target)


@pytest.mark.parametrize("name", ["%20", "%C3%BC", "a%2Fb", "%FF", "-a", ".a", "x" * 255, "a b"])
def test_what_can_name_no_model_is_no_model(name: str) -> None:
    with pytest.raises(ModelNotFound, match="there is no model"):
        find("GET", f"/v2/models/{name}")


@pytest.mark.parametrize("version", ["v1", "-1", "1.0", "1e3", "", "%C2%B2", "٣", "1" * 19])
def test_what_is_no_number_is_no_version(version: str) -> None:
    kind = PathNotFound if version == "" else VersionNotFound
    with pytest.raises(kind):
        find("GET", f"/v2/models/m/versions/{version}/ready")


def test_a_wrong_method_is_told_the_right_ones() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        find("GET", "/v2/models/m/infer")
    assert caught.value.allowed == ("POST",)
    with pytest.raises(MethodNotAllowed, match="/v2 takes GET or HEAD, not DELETE"):
        find("DELETE", "/v2")


def test_messages_stay_short() -> None:
    long = "x" * 9999
    for target in (f"/{long}", f"/v2/models/{long}", f"/v2/models/m/versions/{long}"):
        with pytest.raises(ShoalError) as caught:
            find("GET", target)
        assert len(caught.value.message) < 300


def test_a_path_is_understood_once() -> None:
    routes = Routes()
    assert routes.find("POST", "/v2/models/m/infer") is routes.find("POST", "/v2/models/m/infer")


def test_what_strangers_ask_for_does_not_fill_the_memory() -> None:
    routes = Routes(most=10)
    for number in range(95):
        routes.find("GET", f"/v2/models/m{number}/ready")
        assert 0 < len(routes) <= 10
    long = "/v2/models/" + "%61" * LONGEST_KNOWN
    before = len(routes)
    with pytest.raises(ModelNotFound):
        routes.find("GET", long)
    routes.find("GET", "/v2/models/" + "%61" * 200)
    assert len(routes) == before
