"""Declarations of serving runtimes in files: in Shoal's own form, and KServe's manifests."""

from __future__ import annotations

import pytest

from shoal.domain.errors import InvalidSpecification
from shoal.domain.serving_runtime import ServingRuntime, SupportedFormat
from shoal.storage.kserve_runtime import ReadRuntime
from shoal.storage.runtime_files import read_runtimes

OWN = """
name: triton
formats:
  - {name: tensorrt, version: "8", priority: 2}
  - {name: onnx, auto_select: false}
protocols: [v2]
serves: triton
command: [tritonserver, "--model-repository={models}", "--grpc-port={grpc_port}"]
environment: {CUDA_VISIBLE_DEVICES: "0"}
start_timeout_s: 120
disabled: true
"""

# As in kserve/modelmesh-serving, config/runtimes, shortened.
TRITON = """
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata:
  name: triton-2.x
  creationTimestamp: 2024-06-01T10:00:00Z
  annotations: {maxLoadingConcurrency: "2"}
spec:
  supportedModelFormats:
    - {name: keras, version: "2", autoSelect: true}
    - {name: onnx, version: "1", autoSelect: true, priority: 3}
    - {name: xgboost, version: "1"}
  protocolVersions: [grpc-v2]
  multiModel: true
  grpcEndpoint: "port:8085"
  grpcDataEndpoint: "port:8001"
  containers:
    - name: triton
      image: tritonserver-2:replace
      command: [/bin/sh]
      args: ["-c", "mkdir -p /models/_triton_models; exec tritonserver"]
      env:
        - {name: TF_CPP_MIN_LOG_LEVEL, value: "2"}
        - {name: LICENCE, valueFrom: {secretKeyRef: {name: s, key: k}}}
      resources: {requests: {cpu: 500m, memory: 1Gi}, limits: {memory: 2Gi}}
  builtInAdapter:
    serverType: triton
    runtimeManagementPort: 8001
    memBufferBytes: 134217728
    modelLoadingTimeoutMillis: 90000
"""

MLSERVER = """
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterServingRuntime
metadata: {name: mlserver-1.x}
spec:
  supportedModelFormats: [{name: sklearn, version: "0", autoSelect: true}]
  multiModel: true
  containers:
    - name: mlserver
      env: [{name: MLSERVER_GRPC_PORT, value: "8001"}, {name: MLSERVER_DEBUG, value: "false"}]
  builtInAdapter: {serverType: mlserver}
"""

CUSTOM = """
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata: {name: custom}
spec:
  disabled: true
  supportedModelFormats: [{name: mine, autoSelect: true}]
  protocolVersions: [v2, grpc-v1, grpc-v2]
  grpcEndpoint: "port:8085"
  containers: [{name: c, command: [python, -m, server], args: ["--port=8085", "--size=18085"]}]
"""


def read(text: str) -> ReadRuntime:
    (found,) = read_runtimes(text, "r.yaml")
    return found


def refused(text: str) -> str:
    with pytest.raises(InvalidSpecification) as error:
        read_runtimes(text, "r.yaml")
    return error.value.message


# --- Shoal's own form ---------------------------------------------------------------------------


def test_the_fields_are_those_of_the_declaration() -> None:
    assert read(OWN) == ReadRuntime(ServingRuntime(
        name="triton", protocols=("v2",), serves="triton",
        formats=(SupportedFormat("tensorrt", "8", priority=2),
                 SupportedFormat("onnx", auto_select=False)),
        command=("tritonserver", "--model-repository={models}", "--grpc-port={grpc_port}"),
        environment={"CUDA_VISIBLE_DEVICES": "0"}, start_timeout_s=120.0, disabled=True,
    ))


def test_json_is_yaml_too() -> None:
    text = '{"name": "a", "formats": [{"name": "x"}], "address": "h:1"}'
    assert read(text).serving.address == "h:1"


def test_one_text_may_hold_several() -> None:
    found = read_runtimes(f"{OWN}\n---\n{CUSTOM}---\n", "r.yaml")
    assert [each.serving.name for each in found] == ["triton", "custom"]


@pytest.mark.parametrize(("text", "story"), [
    ("", "r.yaml declares nothing; write the fields"),
    ("- a", "r.yaml is not a mapping of fields"),
    (f"{OWN}---\n{OWN}", "document 2 declares the runtime 'triton' a second time"),
    ("name: [", "r.yaml, line 2, column 1: did not find"),
    ("name: &a x\nserves: *a", "aliases (*) are not supported"),
    (OWN.replace("serves", "servs"), "unknown field 'servs'; did you mean 'serves'? the fields are "
     "name, formats"),
    (OWN.replace("auto_select", "autoSelect"), "formats[1]: unknown field 'autoSelect'; did you "
     "mean 'auto_select'?"),
    (OWN.replace('"8"', "8"), "formats[0].version: expected `str | null`, got `int`; put it in "
     "quotes"),
    (OWN.replace('"0"', "0"), "got `int`; put it in quotes"),
    (OWN.replace("serves: triton", "serves: tritn"), "serves: invalid enum value 'tritn'; correct"),
    (OWN.replace("name: triton\n", ""), "object missing required field `name`"),
    (OWN.replace("{models}", "/m"), "r.yaml: runtime 'triton': it serves a folder of models"),
], ids=range(12))
def test_what_is_wrong_is_told_with_the_way_out(text: str, story: str) -> None:
    assert story in refused(text)


# --- KServe's -----------------------------------------------------------------------------------


def test_triton_of_modelmesh_is_started_by_a_command_of_ours() -> None:
    found = read(TRITON)
    serving = found.serving
    assert serving.name == "triton-2.x"
    assert serving.formats == (
        SupportedFormat("keras", "2"), SupportedFormat("onnx", "1", priority=3),
        SupportedFormat("xgboost", "1", auto_select=False))
    assert serving.protocols == ("grpc-v2",)
    assert (serving.interface, serving.serves) == ("v2", "triton")
    assert serving.command[:2] == ("tritonserver", "--model-repository={models}")
    assert serving.environment == {"TF_CPP_MIN_LOG_LEVEL": "2"}
    assert serving.capacity_bytes == 2**30 - 2**27
    assert (serving.max_loading, serving.load_timeout_s) == (2, 90.0)
    command, licence = found.notes
    assert "image, command and args of its container are left out" in licence + command
    assert "the variable LICENCE comes from elsewhere" in licence + command


def test_mlserver_of_modelmesh_keeps_the_variables_that_are_its_own() -> None:
    found = read(MLSERVER)
    assert found.serving.command == ("mlserver", "start", "{models}")
    assert found.serving.environment == {"MLSERVER_DEBUG": "false"}
    assert found.serving.protocols == ("v1", "v2", "grpc-v2")  # KServe: unsaid is any
    assert any("MLSERVER_GRPC_PORT are left out" in note for note in found.notes)


def test_a_server_with_modelmeshs_interface_is_started_on_a_free_port() -> None:
    found = read(CUSTOM)
    assert found.serving == ServingRuntime(
        name="custom", formats=(SupportedFormat("mine"),), protocols=("v2", "grpc-v2"),
        interface="model-runtime", disabled=True,
        command=("python", "-m", "server", "--port={grpc_port}", "--size=18085"))
    assert any("the port 8085 in its command" in note for note in found.notes)
    assert any("the protocol grpc-v1 is left out" in note for note in found.notes)


def test_inference_may_have_a_port_of_its_own() -> None:
    text = CUSTOM.replace("grpcEndpoint", 'grpcDataEndpoint: "port:8001"\n  grpcEndpoint').replace(
        "{name: c, ", "{name: c, env: [{name: DATA_PORT, value: '8001'}], ")
    serving = read(text).serving
    assert serving.environment == {"DATA_PORT": "{grpc_port}"}
    assert serving.command[3] == "--port={management_port}"


@pytest.mark.parametrize(("endpoint", "data", "expected"), [
    ("port:8085", None, ("127.0.0.1:8085", None)),
    ("port:8085", "port:8001", ("127.0.0.1:8001", "127.0.0.1:8085")),
    ("unix:/tmp/m.sock", "unix:/tmp/m.sock", ("unix:/tmp/m.sock", None)),
    ("unix:///tmp/m.sock", "port:8001", ("127.0.0.1:8001", "unix:/tmp/m.sock")),
], ids=range(4))
def test_a_container_without_a_command_runs_already(
    endpoint: str, data: str | None, expected: tuple[str, str | None]
) -> None:
    text = CUSTOM.replace('"port:8085"', f'"{endpoint}"').replace(
        "containers: [{name: c, command: [python, -m, server], args: [\"--port=8085\", "
        "\"--size=18085\"]}]", f"grpcDataEndpoint: {data}" if data else "")
    found = read(text)
    assert (found.serving.address, found.serving.management_address) == expected
    assert "it must run beside each instance already" in found.notes[-1]


@pytest.mark.parametrize(("text", "story"), [
    (TRITON.replace("ServingRuntime", "InferenceService"), "it is a 'InferenceService' of serving"),
    (TRITON.replace("serving.kserve.io", "apps"), "of apps/v1alpha1, and no ServingRuntime or"),
    (TRITON.replace('version: "2"', "version: 2"), "it is no ServingRuntime as KServe has it"),
    (TRITON.replace("serverType: triton", "serverType: ovms"), "serverType 'ovms' has no"),
    (TRITON.replace('value: "2"', 'value: "{{.Name}}"'), "'{{.Name}}' has a template"),
    (TRITON.replace("requests: {cpu: 500m, memory: 1Gi}", "requests: {memory: 1GB}"),
     "memory '1GB' is no quantity"),
    (TRITON.replace("requests: {cpu: 500m, memory: 1Gi}", "requests: {memory: 1Mi}"),
     "its memory, 1Mi, is no more than memBufferBytes"),
    (TRITON.replace('"2"}\nspec', '"two"}\nspec'), "maxLoadingConcurrency is 'two'"),
    (TRITON.replace("[grpc-v2]", "[grpc-v1]"), "it speaks grpc-v1 alone"),
    (TRITON.replace("priority: 3", "priority: 0"), "formats[1].priority is 0"),
    (CUSTOM.replace('grpcEndpoint: "port:8085"', ""), "neither 'builtInAdapter' nor"),
    (CUSTOM.replace("port:8085", "tcp:8085"), "grpcEndpoint is 'tcp:8085'; KServe's are"),
    (CUSTOM.replace('"--port=8085", ', ""), "its command nor its env says the port 8085"),
    (CUSTOM.replace("grpcEndpoint", 'grpcDataEndpoint: "port:1"\n  grpcEndpoint'),
     "its command nor its env says the port 1"),
    (CUSTOM.replace("port:8085", "unix:/s"), "it listens on a Unix socket"),
    (CUSTOM.replace("{name: mine, autoSelect: true}", ""), "'formats' is empty"),
], ids=range(16))
def test_what_has_no_counterpart_is_refused(text: str, story: str) -> None:
    told = refused(text)
    assert story in told
