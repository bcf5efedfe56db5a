"""Opens a network that is a class: a folder with `model.py` and the weights that it is filled with.

    model.py             class Net(torch.nn.Module): …
    weights.safetensors  or one .pt or .pth file: torch.save(net.state_dict(), "weights.pt")

Importing the class runs its code; weights are read as plain tensors, without a pickle's code.
Options: `class` (`Net`, or `module:Net` for another file), where there are several; `arguments` of
the class, by name; `weights`, the file, where there are several.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from shoal.domain.errors import (
    ArtifactMissing,
    InvalidArtifact,
    InvalidSpecification,
    ShoalError,
)
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact
from shoal.runtimes.binding import in_order
from shoal.runtimes.loading import import_framework, one_line, unreadable
from shoal.runtimes.local_code import failed, import_local
from shoal.runtimes.local_imports import LocalPackage
from shoal.runtimes.network_folder import FILE, weights_in
from shoal.runtimes.torch_device import bytes_on
from shoal.runtimes.torch_file import Kind, kind_of
from shoal.runtimes.torch_graph import Read
from shoal.runtimes.torch_program import Program, drop_weights, weights_bytes

OPTIONS: Final = ("class", "arguments", "weights")
_SAVE: Final = "save them with torch.save(net.state_dict(), 'weights.pt')"
# Under which training frameworks put the weights into their checkpoints.
_CHECKPOINTS: Final = ("state_dict", "model_state_dict", "model")
# What wrappers (data parallel, compiled) put before every name.
_WRAPPERS: Final = ("module.", "_orig_mod.")


def open_class(torch: ModuleType, artifact: Artifact) -> Program:
    """Raises InvalidArtifact, InvalidSpecification, RuntimeMissing, ArtifactMissing."""
    weights, device = _weights_file(artifact), artifact.device
    package = LocalPackage(artifact.path, artifact.model)
    try:
        network = _make(torch, artifact, package)
        _fill(torch, artifact, network, weights)
        read = _read(artifact, network)
        if device is not None:
            network.to(device)
    except BaseException:
        package.remove()
        raise

    def close() -> None:
        drop_weights(network)
        package.remove()

    there = bytes_on((*network.parameters(), *network.buffers()), device)
    return Program(
        call=network, read=read, source="class",
        size_bytes=max(weights_bytes(network) - there, 0), accelerator_bytes=there,
        platform="pytorch_module", may_wait=True,
        alone=True,  # code that was not written for threads
        close=close,
    )


def _weights_file(artifact: Artifact) -> Path:
    named = artifact.options.get("weights")
    if named is not None:
        if not isinstance(named, str) or Path(named).name != named:
            raise InvalidSpecification(
                f"model {artifact.model!r}: the option weights is {named!r}; write the name of a "
                "file in the model's folder"
            )
        if not (artifact.path / named).is_file():
            raise ArtifactMissing(
                f"model {artifact.model!r}: there is no {named} in {artifact.path.name}; put it "
                "there, or correct the option weights"
            )
        return artifact.path / named
    found = weights_in(artifact.path)
    if len(found) != 1:
        listed = ", ".join(path.name for path in found)
        raise InvalidArtifact(
            f"model {artifact.model!r}: {artifact.path.name} holds "
            + (f"several files of weights ({listed}); keep one, or name it with the option weights"
               if found else f"no weights; {_SAVE}")
        )
    return found[0]


def _make(torch: ModuleType, artifact: Artifact, package: LocalPackage) -> Any:
    """The network, in evaluation, with the weights that its class begins with."""
    made = _class(torch, artifact, package)
    arguments = artifact.options.get("arguments", {})
    if not isinstance(arguments, Mapping):
        raise InvalidSpecification(
            f"model {artifact.model!r}: the option arguments is {arguments!r}; write values by name"
        )
    try:
        inspect.signature(made).bind(**arguments)
    except TypeError as error:
        raise InvalidSpecification(
            f"model {artifact.model!r}: the class {made.__name__} cannot be made "
            f"({one_line(error)}); give its arguments by name in the option arguments"
        ) from error
    try:
        return made(**arguments).eval()
    except ShoalError:
        raise
    except Exception as error:  # the model's own code, which raises anything; told as the reason
        raise failed(artifact, package, error, f"making its {made.__name__}") from error


def _class(torch: ModuleType, artifact: Artifact, package: LocalPackage) -> type:
    wish = artifact.options.get("class")
    if wish is not None and not isinstance(wish, str):
        raise InvalidSpecification(
            f"model {artifact.model!r}: the option class is {wish!r}; write the name of a class of "
            f"{FILE}, or module:Name"
        )
    file, _, name = (wish or "").rpartition(":")
    file = file or "model"
    if not package.holds(file):
        raise ArtifactMissing(
            f"model {artifact.model!r}: there is no {file}.py in {artifact.path.name}; put it "
            "there, or correct the option class"
        )
    module = import_local(artifact, package, file)
    networks = {
        key: value for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, torch.nn.Module)
        and (key == name or value.__module__ == module.__name__)
    }
    if name in networks:
        return networks[name]
    if not name and len(networks) == 1:
        return next(iter(networks.values()))
    listed = ", ".join(networks) or "none"
    problem = f"has no network {name}" if name else "does not say which class the weights are for"
    raise InvalidSpecification(
        f"model {artifact.model!r}: {file}.py {problem} (it has {listed} of torch.nn.Module); "
        "name one with the option class"
    )


def _fill(torch: ModuleType, artifact: Artifact, network: Any, path: Path) -> None:
    weights = _read_weights(torch, artifact, path)
    expected = network.state_dict()
    for wrapper in _WRAPPERS:
        if weights and all(name.startswith(wrapper) for name in weights) and not any(
            name.startswith(wrapper) for name in expected
        ):
            weights = {name.removeprefix(wrapper): each for name, each in weights.items()}
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        lines = [" ".join(line.split()) for line in str(error).splitlines()[1:]]
        raise InvalidArtifact(
            f"model {artifact.model!r}: {path.name} does not fit the class "
            f"{type(network).__name__}: {one_line(' '.join(lines) or error).rstrip('.')}; save it "
            "from this class, or give the arguments that it was made with in the option arguments"
        ) from error


def _read_weights(torch: ModuleType, artifact: Artifact, path: Path) -> dict[str, Any]:
    """Tensors by name."""
    kind = kind_of(path)
    try:
        if kind is Kind.SAFETENSORS or path.suffix.lower() == ".safetensors":
            reader = import_framework("safetensors.torch", "pytorch", artifact)
            found = reader.load_file(path)
        else:
            # Mapped, it needs no second copy while the network is filled.
            with path.open("rb") as file:
                mapped = file.read(2) == b"PK"
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except ShoalError:
        raise
    except Exception as error:  # whatever reading a damaged file runs into
        raise _refused(artifact, path, error) from error
    for _ in range(2):
        if not isinstance(found, Mapping):
            break
        if found and all(isinstance(each, torch.Tensor) for each in found.values()):
            return dict(found)
        found = next((found[key] for key in _CHECKPOINTS if key in found), None)
    raise InvalidArtifact(
        f"model {artifact.model!r}: {path.name} holds no tensors by name; {_SAVE}"
    )


def _refused(artifact: Artifact, path: Path, error: Exception) -> InvalidArtifact:
    if "weights_only" in str(error).lower() or "Weights only" in str(error):
        return InvalidArtifact(
            f"model {artifact.model!r}: {path.name} holds more than weights, which only code in it "
            f"could make; {_SAVE}"
        )
    return unreadable(
        artifact, f"{path.name} is cut off, damaged, or holds no weights ({one_line(error)})",
        f"copy it again, or {_SAVE}",
    )


def _read(artifact: Artifact, network: Any) -> Read:
    """Inputs are the arguments of `forward` without defaults; of what kind says the declaration."""
    names = [
        name for name, each in inspect.signature(network.forward).parameters.items()
        if each.default is each.empty
        and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    if not artifact.inputs:
        raise InvalidSpecification(
            f"model {artifact.model!r}: its class {type(network).__name__} takes "
            f"{', '.join(names) or 'nothing'}, but does not say of which datatype and shape; "
            "declare the inputs in a model.yaml beside it: inputs: [{name: "
            f"{names[0] if names else 'x'}, datatype: FP32, shape: [-1, 4]}}]"
        )
    if len(names) != len(artifact.inputs):  # *args, or arguments that may be left out
        names = [spec.name for spec in artifact.inputs]
    text = next((spec.name for spec in artifact.inputs if spec.datatype == "BYTES"), None)
    if text is not None:
        raise InvalidSpecification(
            f"model {artifact.model!r}: input {text!r} is declared as BYTES, but networks take "
            "numbers; prepare text in a class with predict (format python)"
        )
    own = tuple(
        TensorSpec(name, spec.datatype, spec.shape)
        for name, spec in zip(names, in_order(names, artifact.inputs), strict=True)
    )
    return Read(own, (True,) * len(own), (), True)
