"""NVIDIA's own gRPC client, blocking, asyncio and streaming, against the gRPC port, unchanged."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.triton_samples import NUMBERS, labels, measures
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

if TYPE_CHECKING:
    from tests.integration.conftest import Public

@pytest.fixture
def client(public: Public) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(public.server.grpc)
    yield made
    made.close()


@pytest.fixture
async def aio(public: Public) -> AsyncIterator[triton_aio.InferenceServerClient]:
    async with triton_aio.InferenceServerClient(public.server.grpc) as made:
        yield made


def tensor(name: str, data: Any) -> triton.InferInput:
    given = triton.InferInput(name, list(data.shape), np_to_triton_dtype(data.dtype))
    given.set_data_from_numpy(data)
    return given


# --- what it asks about servers and models ------------------------------------------------------


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("iris-net")
    assert client.is_model_ready("prices", "1")
    assert not client.is_model_ready("nope")
    assert not client.is_model_ready("prices", "7")
    server = client.get_server_metadata()
    assert (server.name, "binary_tensor_data" in server.extensions) == ("shoal", True)
    metadata = client.get_model_metadata("iris-net")
    assert [each.name for each in metadata.outputs] == ["label", "probabilities"]
    assert list(metadata.inputs[0].shape) == [-1, 4]
    assert list(client.get_model_metadata("prices", "1").versions) == ["1", "2"]


def test_configuration_and_statistics(client: triton.InferenceServerClient, public: Public) -> None:
    config = client.get_model_config("iris-net", as_json=True)["config"]
    assert config["input"][0] | {"dims": ["-1", "4"]} == config["input"][0]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    client.infer("iris-net", [tensor("measures", measures(public))])
    (stats,) = client.get_inference_statistics("iris-net").model_stats
    assert stats.inference_count >= 1
    assert stats.inference_stats.success.ns > 0
    (first,) = client.get_inference_statistics("prices", "1").model_stats
    assert first.version == "1"
    assert "iris-net" in {each.name for each in client.get_inference_statistics().model_stats}


def test_the_repository(client: triton.InferenceServerClient) -> None:
    client.load_model("stats")
    index = client.get_model_repository_index().models
    assert "stats" in {entry.name for entry in index if entry.state == "READY"}
    client.unload_model("stats")
    assert not client.is_model_ready("stats")
    client.load_model("stats")
    assert client.is_model_ready("stats")
    with pytest.raises(InferenceServerException, match="there are no weights"):
        client.load_model("broken")
    with pytest.raises(InferenceServerException, match="load takes no parameters here"):
        client.load_model("stats", config="{}")


# --- inference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_go_both_ways(client: triton.InferenceServerClient, datatype: str) -> None:
    data = np.array(NUMBERS[datatype], triton_to_np_dtype(datatype))
    found = client.infer("echo", [tensor("x", data)]).as_numpy("x")
    assert found.dtype == data.dtype
    assert found.tolist() == data.tolist()


def test_text_goes_both_ways(client: triton.InferenceServerClient) -> None:
    data = np.array([["", "zwölf"], ["\n🦊", "x" * 5000]], object)
    result = client.infer("echo", [tensor("x", data)])
    assert [each.decode() for each in result.as_numpy("x").ravel()] == data.ravel().tolist()


def test_bf16_goes_both_ways(client: triton.InferenceServerClient) -> None:
    given = triton.InferInput("x", [3], "BF16")
    given.set_data_from_numpy(np.array([1.5, -2, 256], ml_dtypes.bfloat16))
    assert client.infer("echo", [given]).as_numpy("x").tolist() == [1.5, -2, 256]


def test_outputs_are_chosen_and_ids_come_back(
    client: triton.InferenceServerClient, public: Public
) -> None:
    given = [tensor("measures", measures(public))]
    result = client.infer("iris-net", given, request_id="42")
    assert result.get_response().id == "42"
    assert result.as_numpy("label").tolist() == labels(public)
    assert result.as_numpy("probabilities").shape == (3, 3)
    only = client.infer("iris-net", given, outputs=[triton.InferRequestedOutput("label")])
    assert only.as_numpy("probabilities") is None


def test_sequence_priority_and_timeout_parameters_do_no_harm(
    client: triton.InferenceServerClient, public: Public
) -> None:
    result = client.infer(
        "iris-net", [tensor("measures", measures(public))], sequence_id=1, sequence_start=True,
        priority=3, timeout=1_000_000, parameters={"mine": "x"}, client_timeout=20,
        headers={"x-request-id": "from-triton"},
    )
    assert result.as_numpy("label").tolist() == labels(public)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(client: triton.InferenceServerClient, algorithm: str) -> None:
    data = np.arange(5000, dtype="i8")
    result = client.infer("echo", [tensor("x", data)], compression_algorithm=algorithm)
    assert result.as_numpy("x").tolist() == data.tolist()


def test_many_at_once(client: triton.InferenceServerClient, public: Public) -> None:
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for _ in range(20):
        client.async_infer(
            "iris-net", [tensor("measures", measures(public))],
            lambda result, error: done.put((result, error)),
        )
    for _ in range(20):
        result, error = done.get(timeout=30)
        assert error is None
        assert result.as_numpy("label").tolist() == labels(public)


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_has_many_requests_in_flight(client: triton.InferenceServerClient) -> None:
    """Answers come as they are ready and are told apart by their ids."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(200):
        model = "plodding" if number % 10 == 0 else "echo"
        data = np.array([number], "f4")
        client.async_stream_infer(model, [tensor("x", data)], request_id=str(number))
    found = {}
    for _ in range(200):
        result, error = answers.get(timeout=30)
        assert error is None
        response = result.get_response()
        found[response.id] = result.as_numpy(response.outputs[0].name).tolist()
    client.stop_stream()
    assert found == {str(number): [float(number)] for number in range(200)}


def test_an_error_in_a_stream_does_not_end_it(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    given = [tensor("x", np.array([1], "f4"))]
    client.async_stream_infer("nope", given)
    _, error = answers.get(timeout=30)
    assert "model 'nope' is not registered" in str(error)
    client.async_stream_infer("wrong", given, parameters={"do": "raise"})
    _, error = answers.get(timeout=30)
    assert "the weights are melting" in str(error)
    client.async_stream_infer("echo", given)
    result, error = answers.get(timeout=30)
    assert error is None
    assert result.as_numpy("x").tolist() == [1]
    client.stop_stream()


# --- what is wrong ------------------------------------------------------------------------------


def test_errors_arrive_with_their_words(
    client: triton.InferenceServerClient, public: Public
) -> None:
    given = tensor("measures", measures(public))
    with pytest.raises(InferenceServerException, match="model 'nope' is not registered") as caught:
        client.infer("nope", [given])
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match="datatype FP64, but the model takes FP32"):
        client.infer("iris-net", [tensor("measures", measures(public).astype("f8"))])
    with pytest.raises(InferenceServerException, match="output 'nope' is not one of the model's"):
        client.infer("iris-net", [given], outputs=[triton.InferRequestedOutput("nope")])
    classes = triton.InferRequestedOutput("label", class_count=3)
    with pytest.raises(InferenceServerException, match="'classification' is not supported"):
        client.infer("iris-net", [given], outputs=[classes])


def test_what_is_not_there_is_refused_cleanly(client: triton.InferenceServerClient) -> None:
    for ask in (
        client.get_trace_settings, client.get_log_settings, client.get_system_shared_memory_status,
    ):
        with pytest.raises(InferenceServerException, match="there is no method") as caught:
            ask()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    shared = triton.InferInput("x", [1], "FP32")
    shared.set_shared_memory("region", 4)
    with pytest.raises(InferenceServerException, match="shared memory is not supported"):
        client.infer("echo", [shared])


# --- asyncio ------------------------------------------------------------------------------------


async def test_the_asyncio_client_asks_everything(
    aio: triton_aio.InferenceServerClient, public: Public
) -> None:
    assert await aio.is_server_live()
    assert await aio.is_server_ready()
    assert await aio.is_model_ready("iris-net")
    assert not await aio.is_model_ready("nope")
    assert (await aio.get_server_metadata()).name == "shoal"
    assert (await aio.get_model_metadata("iris-net")).inputs[0].name == "measures"
    assert (await aio.get_model_config("iris-net")).config.name == "iris-net"
    assert (await aio.get_inference_statistics("iris-net")).model_stats
    await aio.load_model("stats")
    assert "stats" in {entry.name for entry in (await aio.get_model_repository_index()).models}
    result = await aio.infer("iris-net", [tensor("measures", measures(public))])
    assert result.as_numpy("label").tolist() == labels(public)


async def test_the_asyncio_client_streams(aio: triton_aio.InferenceServerClient) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(50):
            yield {
                "model_name": "echo", "request_id": str(number),
                "inputs": [tensor("x", np.array([number], "f4"))],
            }

    found = {}
    async for result, error in aio.stream_infer(requests()):
        assert error is None
        found[result.get_response().id] = result.as_numpy("x").tolist()
    assert found == {str(number): [float(number)] for number in range(50)}
