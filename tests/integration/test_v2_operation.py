"""What surrounds an inference over HTTP: deadlines, crowds, counts, logs, the model repository."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from tests.odd_models import ONE
from tests.served import Served, until

if TYPE_CHECKING:
    from tests.integration.conftest import Public

# --- deadlines ----------------------------------------------------------------------------------


def test_a_deadline_ends_the_wait_for_a_slow_model(public: Public) -> None:
    late = public.post("/v2/models/gated/infer", ONE, shoal_timeout_ms="50")
    assert (late.status_code, late.headers["shoal-error-code"]) == (504, "DEADLINE_EXCEEDED")
    assert "model 'gated' did not answer within 0.05 s" in late.json()["error"]
    public.open("gated")
    assert public.post("/v2/models/gated/infer", ONE, shoal_timeout_ms="60000").status_code == 200


def test_a_deadline_ends_the_wait_for_a_load_which_goes_on(public: Public) -> None:
    late = public.post("/v2/models/slow-to-load/infer", ONE, shoal_timeout_ms="50")
    assert late.status_code == 504
    assert "model 'slow-to-load' was not ready within 0.05 s" in late.json()["error"]
    described = public.server.http.get(
        "/v2/models/slow-to-load", headers={"shoal-timeout-ms": "50"}
    )
    assert described.status_code == 504
    public.open("slow-to-load")
    assert public.post("/v2/models/slow-to-load/infer", ONE).status_code == 200


def test_a_deadline_that_has_passed_is_not_waited_for(public: Public) -> None:
    for model in ("echo", "handled"):
        late = public.post(f"/v2/models/{model}/infer", ONE, shoal_timeout_ms="0")
        assert late.status_code == 504


@pytest.mark.parametrize("given", ["9" * 300, "9" * 5000, "1"])
def test_any_number_is_a_deadline(public: Public, given: str) -> None:
    public.post("/v2/models/echo/infer", ONE)
    assert public.post("/v2/models/echo/infer", ONE, shoal_timeout_ms=given).status_code == 200


@pytest.mark.parametrize("given", ["soon", "-1", "1.5", "1e3", "5s", "\xb2"])
def test_what_is_no_number_of_milliseconds_is_refused(public: Public, given: str) -> None:
    for path in ("/v2/models/echo/infer", "/v1/models/pair:predict", "/v2/repository/index"):
        answer = public.server.http.post(
            path, content=json.dumps(ONE), headers={b"shoal-timeout-ms": given.encode("latin-1")}
        )
        assert answer.status_code == 400
        assert "whole number of milliseconds" in answer.json()["error"]


# --- many at once -------------------------------------------------------------------------------


def test_a_hundred_requests_for_a_cold_model_load_it_once(public: Public) -> None:
    def ask(number: int) -> float:
        request = {"inputs": [{**ONE["inputs"][0], "data": [number]}]}
        answer = public.post("/v2/models/slow-to-fetch/infer", request)
        return float(answer.json()["outputs"][0]["data"][0])

    with ThreadPoolExecutor(20) as threads:
        answers = threads.map(ask, range(100))
        until(lambda: "shoal_waiting_requests 20.0" in metrics(public), "twenty that wait")
        public.open("slow-to-fetch")
        assert list(answers) == [float(number) for number in range(100)]
    story = public.server.client.explain("slow-to-fetch")
    assert [event.kind for event in story.events].count("load_started") == 1


def metrics(public: Public) -> str:
    connection = http.client.HTTPConnection(urlsplit(public.server.management).netloc)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    return page


def test_requests_for_several_models_do_not_mix(public: Public) -> None:
    wrong: list[object] = []

    def ask(seed: int) -> None:
        client = http.client.HTTPConnection(urlsplit(public.server.url).netloc)
        for number in range(50):
            value = seed * 1000 + number
            model = ("echo", "counted", "stats")[number % 3]
            body = {"id": str(value), "inputs": [{**ONE["inputs"][0], "data": [value]}]}
            client.request("POST", f"/v2/models/{model}/infer", json.dumps(body))
            answer = json.loads(client.getresponse().read())
            if (answer["id"], answer["model_name"], answer["outputs"][0]["data"]) != (
                str(value), model, [value],
            ):
                wrong.append(answer)
        client.close()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_model_that_takes_one_call_at_a_time_gets_no_second_one(public: Public) -> None:
    """Whether calls run on the event loop, which short ones do, or on threads."""
    def ask(number: int) -> bool:
        rows = 1 if number % 4 else 20_000
        tensor = {**ONE["inputs"][0], "shape": [rows], "data": [1.0] * rows}
        answer = public.post("/v2/models/alone/infer", {"inputs": [tensor]}).json()
        return bool(answer["outputs"][0]["data"][0])

    with ThreadPoolExecutor(8) as threads:
        assert not any(threads.map(ask, range(80)))


def test_clients_that_leave_at_once_leave_nothing_behind(public: Public) -> None:
    """A copy that counted them for ever could never be unloaded."""
    assert public.post("/v2/models/plodding/infer", ONE).status_code == 200
    body = json.dumps(ONE).encode()
    address = urlsplit(public.server.url)
    for _ in range(200):
        with socket.create_connection((address.hostname, address.port), timeout=30) as client:
            client.sendall(b"POST /v2/models/plodding/infer HTTP/1.1\r\nhost: x\r\n"
                           b"content-length: %d\r\n\r\n%b" % (len(body), body))
    unloaded = public.post(
        "/v2/repository/models/plodding/unload", {}, shoal_timeout_ms="20000"
    )
    assert unloaded.status_code == 200


# --- statistics, metrics, logs ------------------------------------------------------------------


def test_statistics_count_what_a_version_did(public: Public) -> None:
    def stats(path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = public.server.http.get(path).json()["model_stats"]
        return found

    (before,) = stats("/v2/models/iris/stats")
    request = public.cases["iris"].request
    for _ in range(3):
        assert public.post("/v2/models/iris/infer", request).status_code == 200
    assert public.post("/v2/models/iris/infer", ONE | {"inputs": []}).status_code == 400
    (after,) = stats("/v2/models/iris/versions/1/stats")
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["last_inference"] > 1.7e12  # milliseconds
    told, told_before = after["inference_stats"], before["inference_stats"]
    assert told["fail"]["count"] - told_before["fail"]["count"] == 1
    for kind in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert told[kind]["count"] - told_before[kind]["count"] == 3
    assert 0 < told["compute_infer"]["ns"] < told["success"]["ns"] < 60e9
    assert [(s["name"], s["version"]) for s in stats("/v2/models/prices/stats")] == [
        ("prices", "1"), ("prices", "2"),
    ]


def test_metrics_count_by_model_protocol_and_code(public: Public) -> None:
    def counted() -> dict[tuple[str, str, str], float]:
        found = {}
        for line in metrics(public).splitlines():
            if line.startswith("shoal_requests_total{"):
                labels, value = line.removeprefix("shoal_requests_total{").split("} ")
                named = dict(label.split("=") for label in labels.split(","))
                key = tuple(named[key].strip('"') for key in ("model", "protocol", "code"))
                found[key] = float(value)
        return found  # type: ignore[return-value]

    before = counted()
    for _ in range(3):
        public.post("/v2/models/counted/infer", ONE)
    public.post("/v2/models/counted/infer", {})
    public.post("/v1/models/counted:predict", {"instances": [1]})
    public.post("/v2/models/who-is-this/infer", ONE)
    public.post("/v2/models/who:is-this/infer", ONE)
    public.post("/v1/models/who%20is%20this:predict", {})
    public.server.http.get("/v2/models/counted")
    after = counted()
    grown = {
        key: count - before.get(key, 0) for key, count in after.items()
        if key[0] in ("counted", "_none") and count != before.get(key, 0)
    }
    assert grown == {
        ("counted", "v2", "200"): 3, ("counted", "v2", "400"): 1, ("counted", "v1", "400"): 1,
        ("_none", "v2", "404"): 2, ("_none", "v1", "404"): 1,
    }
    assert "who" not in metrics(public)


def test_a_request_id_is_taken_returned_and_logged(public: Public) -> None:
    answer = public.post("/v2/models/echo/infer", ONE, x_request_id="order-66")
    assert answer.headers["x-request-id"] == "order-66"
    until(lambda: logged(public, "order-66"), "its line in the log")
    line = logged(public, "order-66")
    assert line is not None
    assert (line["event"], line["model"], line["protocol"]) == ("request", "echo", "v2")
    assert line["code"] == 200
    assert 0 < float(str(line["took_ms"])) < 60_000


def logged(public: Public, request_id: str) -> dict[str, object] | None:
    return next(
        (line for line in list(public.server.logs)
         if line.get("event") == "request" and line.get("request_id") == request_id), None,
    )


def test_errors_get_a_request_id_of_their_own(public: Public) -> None:
    ids = [
        public.server.http.get("/nowhere").headers["x-request-id"],
        public.post("/v2/models/echo/infer", {}).headers["x-request-id"],
        public.post("/v2/models/echo/infer", {}, x_request_id="a b").headers["x-request-id"],
        public.post("/v2/models/echo/infer", {}, x_request_id="y" * 129).headers["x-request-id"],
    ]
    assert len(set(ids)) == 4
    until(lambda: all(logged(public, each) for each in ids), "their lines in the log")
    problem = logged(public, ids[1])
    assert problem is not None
    assert "inputs" in str(problem["problem"])


def test_a_request_id_comes_only_where_it_is_wanted(guarded: Served) -> None:
    assert "x-request-id" not in guarded.http.get("/v2").headers
    assert guarded.http.get("/v2", headers={"x-request-id": "7"}).headers["x-request-id"] == "7"
    assert "x-request-id" in guarded.http.get("/nowhere").headers
    assert guarded.find("request") is None  # log.requests is off


# --- the repository -----------------------------------------------------------------------------


def test_the_index_tells_what_each_model_is_up_to(public: Public) -> None:
    public.post("/v2/models/prices/infer", public.cases["prices"].request)
    public.post("/v2/models/broken/infer", ONE)
    index = public.post("/v2/repository/index", {}).json()
    by_name = {(entry["name"], entry["version"]): entry for entry in index}
    assert by_name["prices", "2"] == {
        "name": "prices", "version": "2", "state": "READY", "reason": "",
    }
    assert by_name["broken", "1"]["state"] == "UNAVAILABLE"
    assert "there are no weights" in by_name["broken", "1"]["reason"]
    assert by_name["vast", "1"]["state"] == "UNAVAILABLE"
    ready = public.server.http.post("/v2/repository/index", json={"ready": True}).json()
    assert {entry["state"] for entry in ready} == {"READY"}
    assert public.server.http.post("/v2/repository/index").json() == index


def test_unloading_takes_a_model_out_of_service_until_it_is_loaded(public: Public) -> None:
    load, unload = (f"/v2/repository/models/counted/{what}" for what in ("load", "unload"))
    assert public.post(load, {}).json() == {"name": "counted", "load": True}
    assert public.post(unload, {"parameters": {"unload_dependents": False}}).json() == {
        "name": "counted", "unload": True,
    }
    refused = public.post("/v2/models/counted/infer", ONE)
    assert (refused.status_code, refused.headers["shoal-error-code"]) == (503, "UNLOADED")
    assert public.server.http.get("/v2/models/counted/ready").status_code == 503
    assert public.server.http.post(load).status_code == 200
    assert public.post("/v2/models/counted/infer", ONE).status_code == 200


def test_a_load_that_fails_says_why(public: Public) -> None:
    answer = public.post("/v2/repository/models/broken/load", {})
    assert answer.status_code == 503
    assert "there are no weights" in answer.json()["error"]


def test_a_load_takes_no_other_configuration(public: Public) -> None:
    body = {"parameters": {"config": "{}"}}
    answer = public.post("/v2/repository/models/echo/load", body)
    assert answer.status_code == 400
    assert "config" in answer.json()["error"]


def test_the_public_port_changes_nothing_unless_told_to(guarded: Served) -> None:
    for what in ("load", "unload"):
        answer = guarded.http.post(f"/v2/repository/models/echo/{what}")
        assert (answer.status_code, answer.headers["shoal-error-code"]) == (403, "NOT_ALLOWED")
        assert "--request-repository-control" in answer.json()["error"]
    assert guarded.http.post("/v2/repository/index").json() == []


# --- no room ------------------------------------------------------------------------------------


def test_a_model_for_which_there_is_no_room_says_when_to_come_back(public: Public) -> None:
    until(lambda: public.post("/v2/models/heavy/infer", ONE).status_code == 200, "heavy")
    refused = public.post("/v2/models/bulky/infer", ONE)
    assert (refused.status_code, refused.headers["shoal-error-code"]) == (503, "NO_ROOM")
    assert int(refused.headers["retry-after"]) > 0
    assert "pinned" in refused.json()["error"]


def test_a_model_larger_than_the_budget_is_not_worth_a_retry(public: Public) -> None:
    refused = public.post("/v2/models/vast/infer", ONE)
    assert (refused.status_code, refused.headers["shoal-error-code"]) == (503, "TOO_LARGE")
    assert "retry-after" not in refused.headers
