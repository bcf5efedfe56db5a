"""Declarations of serving runtimes that could not mean anything are refused, with the way out."""

from __future__ import annotations

import msgspec
import pytest

from shoal.domain.errors import InvalidSpecification
from shoal.domain.serving_checks import check_serving_runtime
from shoal.domain.serving_runtime import ServingRuntime, SupportedFormat

ONNX = (SupportedFormat("onnx"),)
STARTED = ServingRuntime(
    name="triton", formats=ONNX, serves="triton", environment={"OMP_NUM_THREADS": "{1}"},
    command=("tritonserver", "--model-repository={models}", "--grpc-port={grpc_port}", '{"a": 1}'),
)
RUNNING = ServingRuntime(name="mine", formats=ONNX, address="localhost:8001")


@pytest.mark.parametrize("serving", [
    STARTED, RUNNING,
    msgspec.structs.replace(RUNNING, address="unix:/run/s", management_address="[::1]:8085"),
    msgspec.structs.replace(STARTED, serves=None, command=("server",)),
    msgspec.structs.replace(STARTED, command=("s",), environment={"DIR": "{models}"}),
    msgspec.structs.replace(RUNNING, serves="triton", models_dir="/srv/models"),
    msgspec.structs.replace(STARTED, capacity_bytes=1, max_loading=1, load_timeout_s=0.1),
], ids=range(7))
def test_what_can_be_meant_is_taken(serving: ServingRuntime) -> None:
    check_serving_runtime(serving)


@pytest.mark.parametrize(("serving", "changes", "story"), [
    (STARTED, {"name": ""}, "runtime name '' is not valid"),
    (STARTED, {"name": "a/b"}, "runtime name 'a/b' is not valid"),
    (STARTED, {"name": "shoal"}, "the instances themselves; choose another"),
    (STARTED, {"formats": ()}, "'formats' is empty; list what it loads"),
    (STARTED, {"formats": (SupportedFormat("a b"),)}, "formats[0].name is 'a b'; use letters"),
    (STARTED, {"formats": (SupportedFormat("a", ""),)}, "formats[0].version is ''"),
    (STARTED, {"formats": (SupportedFormat("a", priority=0),)}, "formats[0].priority is 0"),
    (STARTED, {"formats": (*ONNX, *ONNX)}, "formats[1] lists onnx a second time; keep one"),
    (STARTED, {"formats": (SupportedFormat("a", "1"), SupportedFormat("a", "1"))},
     "formats[1] lists a of version 1 a second time"),
    (STARTED, {"protocols": ()}, "'protocols' is empty"),
    (STARTED, {"protocols": ("grpc_v2",)},
     "has 'grpc_v2' (did you mean 'grpc-v2'?); known are v1, v2, grpc-v2"),
    (STARTED, {"protocols": ("v2", "v2")}, "'protocols' lists one twice"),
    (STARTED, {"address": "h:1"}, "it has both 'command' and 'address'; say how instances start"),
    (RUNNING, {"address": None}, "it has neither 'command' nor 'address'"),
    (STARTED, {"command": ("",)}, "the first word of 'command' is empty"),
    (STARTED, {"command": ("a", "{models}", "{grpc_prt}")},
     "command[2] has {grpc_prt} (did you mean 'grpc_port'?); known are {grpc_port}"),
    (STARTED, {"command": ("a", "b")}, "no word of 'command' has {models}"),
    (STARTED, {"command": ("a\0", "{models}")}, "command[0] has a zero character"),
    (STARTED, {"environment": {"A=B": ""}}, "has 'A=B', which is no variable's name"),
    (STARTED, {"environment": {"A": "{model}"}}, "A has {model} (did you mean 'models'?)"),
    (STARTED, {"models_dir": "/m"}, "'models_dir' is for a server that runs already"),
    (STARTED, {"interface": "model-runtime"}, "given each model's path by its interface"),
    (RUNNING, {"models_dir": "/m"}, "'models_dir' goes with 'serves'"),
    (RUNNING, {"serves": "triton"}, "it is not said which; say it in 'models_dir'"),
    (RUNNING, {"serves": "triton", "models_dir": "m"}, "models_dir 'm' is no absolute path"),
    (STARTED, {"environment": {"A": "\0"}}, "environment.A has a zero character"),
    (RUNNING, {"environment": {"A": "1"}}, "'environment' is for servers that are started"),
    (STARTED, {"management_address": "h:1"}, "'management_address' goes with 'address'"),
    (RUNNING, {"management_address": "h"}, "management_address 'h' is no address"),
    *((RUNNING, {"address": text}, "is no address; write host:port with a port from 1 to 65535")
      for text in ("", "h", ":80", "h:", "h:0", "h:65536", "h:x", "http://h:80", "a b:1", "unix:",
                   "unix:/", "unix:run", "h:999999999999")),
    (STARTED, {"capacity_bytes": 0}, "capacity_bytes is 0; it must be at least 1"),
    (STARTED, {"max_loading": -1}, "max_loading is -1; it must be at least 1"),
    (STARTED, {"start_timeout_s": 0.0}, "start_timeout_s is 0.0; it must be a number of seconds"),
    (STARTED, {"load_timeout_s": float("nan")}, "load_timeout_s is nan"),
    (STARTED, {"idle_s": float("inf")}, "idle_s is inf"),
], ids=lambda each: None)
def test_what_cannot_be_meant_is_refused(
    serving: ServingRuntime, changes: dict[str, object], story: str
) -> None:
    with pytest.raises(InvalidSpecification) as refused:
        check_serving_runtime(msgspec.structs.replace(serving, **changes))
    assert story in refused.value.message
