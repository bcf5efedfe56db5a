"""NVIDIA's own client, blocking and asyncio, against the public port, unchanged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tests.triton_samples import NUMBERS, labels, measures
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

if TYPE_CHECKING:
    from tests.integration.conftest import Public

@pytest.fixture
def client(public: Public) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(public.server.url.removeprefix("http://"), concurrency=4)
    yield made
    made.close()


@pytest.fixture
async def aio(public: Public) -> AsyncIterator[triton_aio.InferenceServerClient]:
    async with triton_aio.InferenceServerClient(public.server.url.removeprefix("http://")) as made:
        yield made


def tensor(name: str, data: Any, *, binary: bool = True) -> triton.InferInput:
    given = triton.InferInput(name, list(data.shape), np_to_triton_dtype(data.dtype))
    given.set_data_from_numpy(data, binary_data=binary)
    return given


# --- what it asks about servers and models ------------------------------------------------------


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("iris-net")
    assert client.is_model_ready("prices", "1")
    assert not client.is_model_ready("nope")
    assert not client.is_model_ready("prices", "7")
    assert client.get_server_metadata()["name"] == "shoal"
    metadata = client.get_model_metadata("iris-net")
    assert [each["name"] for each in metadata["outputs"]] == ["label", "probabilities"]
    assert client.get_model_metadata("prices", "1")["versions"] == ["1", "2"]


def test_configuration_and_statistics(client: triton.InferenceServerClient, public: Public) -> None:
    config = client.get_model_config("iris-net")
    assert config["input"] == [{"name": "measures", "data_type": "TYPE_FP32", "dims": [-1, 4]}]
    client.infer("iris-net", [tensor("measures", measures(public))])
    (stats,) = client.get_inference_statistics("iris-net")["model_stats"]
    assert stats["inference_count"] >= 1
    assert client.get_inference_statistics("prices", "1")["model_stats"][0]["version"] == "1"


def test_the_repository(client: triton.InferenceServerClient) -> None:
    client.load_model("stats")
    ready = {entry["name"] for entry in client.get_model_repository_index()
             if entry["state"] == "READY"}
    assert "stats" in ready
    client.unload_model("stats")
    assert not client.is_model_ready("stats")
    client.load_model("stats")
    assert client.is_model_ready("stats")
    with pytest.raises(InferenceServerException, match="there are no weights"):
        client.load_model("broken")
    with pytest.raises(InferenceServerException, match="load takes no parameters here"):
        client.load_model("stats", config="{}")


# --- inference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_go_both_ways(
    client: triton.InferenceServerClient, datatype: str, binary: bool
) -> None:
    if datatype == "FP16" and not binary:
        pytest.skip("the client sends FP16 in binary only")
    data = np.array(NUMBERS[datatype], triton_to_np_dtype(datatype))
    wanted = triton.InferRequestedOutput("x", binary_data=binary)
    result = client.infer("echo", [tensor("x", data, binary=binary)], outputs=[wanted])
    found = result.as_numpy("x")
    assert found.dtype == data.dtype
    assert found.tolist() == data.tolist()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_text_goes_both_ways(client: triton.InferenceServerClient, binary: bool) -> None:
    data = np.array([["", "zwölf"], ["\n🦊", "x" * 5000]], object)
    wanted = triton.InferRequestedOutput("x", binary_data=binary)
    result = client.infer("echo", [tensor("x", data, binary=binary)], outputs=[wanted])
    found = [each.decode() if binary else each for each in result.as_numpy("x").ravel()]
    assert found == data.ravel().tolist()


def test_bf16_goes_both_ways(client: triton.InferenceServerClient) -> None:
    given = triton.InferInput("x", [3], "BF16")
    given.set_data_from_numpy(np.array([1.5, -2, 256], ml_dtypes.bfloat16))
    assert client.infer("echo", [given]).as_numpy("x").tolist() == [1.5, -2, 256]


def test_by_default_all_outputs_come_in_binary(
    client: triton.InferenceServerClient, public: Public
) -> None:
    result = client.infer("iris-net", [tensor("measures", measures(public))], request_id="42")
    assert result.get_response()["id"] == "42"
    assert result.as_numpy("label").tolist() == labels(public)
    assert result.as_numpy("probabilities").shape == (3, 3)
    assert "binary_data_size" in result.get_output("label")["parameters"]


def test_sequence_priority_and_timeout_parameters_do_no_harm(
    client: triton.InferenceServerClient, public: Public
) -> None:
    result = client.infer(
        "iris-net", [tensor("measures", measures(public))], sequence_id=1, sequence_start=True,
        priority=3, timeout=1_000_000, parameters={"mine": "x"},
        headers={"x-request-id": "from-triton"}, query_params={"a": [1, 2]},
    )
    assert result.as_numpy("label").tolist() == labels(public)


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("wanted", [None, "gzip", "deflate"])
def test_compression_both_ways(
    client: triton.InferenceServerClient, sent: str | None, wanted: str | None
) -> None:
    data = np.arange(5000, dtype="i8")
    result = client.infer(
        "echo", [tensor("x", data)],
        request_compression_algorithm=sent, response_compression_algorithm=wanted,
    )
    assert result.as_numpy("x").tolist() == data.tolist()


def test_many_at_once(client: triton.InferenceServerClient, public: Public) -> None:
    pending = [
        client.async_infer("iris-net", [tensor("measures", measures(public))]) for _ in range(20)
    ]
    for each in pending:
        assert each.get_result().as_numpy("label").tolist() == labels(public)


def test_bodies_that_clients_make_and_read_themselves(public: Public) -> None:
    body, length = triton.InferenceServerClient.generate_request_body(
        [tensor("measures", measures(public))]
    )
    answer = public.server.http.post(
        "/v2/models/iris-net/infer", content=body,
        headers={"inference-header-content-length": str(length)},
    )
    result = triton.InferenceServerClient.parse_response_body(
        answer.content, header_length=int(answer.headers["inference-header-content-length"])
    )
    assert result.as_numpy("label").tolist() == labels(public)


# --- what is wrong ------------------------------------------------------------------------------


def test_errors_arrive_with_their_words(
    client: triton.InferenceServerClient, public: Public
) -> None:
    given = tensor("measures", measures(public))
    with pytest.raises(InferenceServerException, match="model 'nope' is not registered") as caught:
        client.infer("nope", [given])
    assert caught.value.status() == "404"
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
        with pytest.raises(InferenceServerException, match="there is nothing at") as caught:
            ask()
        assert caught.value.status() == "404"
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
    assert (await aio.get_server_metadata())["name"] == "shoal"
    assert (await aio.get_model_metadata("iris-net"))["inputs"][0]["name"] == "measures"
    assert (await aio.get_model_config("iris-net"))["name"] == "iris-net"
    assert (await aio.get_inference_statistics("iris-net"))["model_stats"]
    await aio.load_model("stats")
    assert "stats" in {entry["name"] for entry in await aio.get_model_repository_index()}
    await aio.unload_model("stats")
    assert not await aio.is_model_ready("stats")
    await aio.load_model("stats")


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
async def test_the_asyncio_client_infers(
    aio: triton_aio.InferenceServerClient, public: Public, encoding: str | None
) -> None:
    result = await aio.infer(
        "iris-net", [tensor("measures", measures(public))],
        request_compression_algorithm=encoding, response_compression_algorithm=encoding,
    )
    assert result.as_numpy("label").tolist() == labels(public)


async def test_the_asyncio_client_understands_what_it_did_not_ask_for(
    aio: triton_aio.InferenceServerClient,
) -> None:
    """Its session accepts compressed answers by default."""
    data = np.arange(5000, dtype="i8")
    assert (await aio.infer("echo", [tensor("x", data)])).as_numpy("x").tolist() == data.tolist()
    with pytest.raises(InferenceServerException, match="has the shape"):
        await aio.infer("iris-net", [tensor("measures", np.ones([1] * 30, "f4"))])


async def test_the_asyncio_client_gets_errors_in_words(
    aio: triton_aio.InferenceServerClient, public: Public
) -> None:
    with pytest.raises(InferenceServerException, match="has the shape \\[3, 4, 1\\]"):
        await aio.infer("iris-net", [tensor("measures", measures(public)[..., None])])
