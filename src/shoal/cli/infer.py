"""The command that runs a model: reads what people have, prints what the model says."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from shoal.cli import render
from shoal.cli.flags import taking
from shoal.cli.target import AsJson, ModelName, Target, target_of
from shoal.domain.errors import InvalidInput
from shoal.domain.model import JsonValue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shoal.client import Client, Result
    from shoal.client.inference import Values

_NPY_MAGIC: Final = b"\x93NUMPY"
_SHOWN_ELEMENTS: Final = 200


@dataclass(frozen=True, slots=True)
class Source:
    """What was given. name: for messages, and its suffix says the kind."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class InferFlags:
    """Of `shoal infer`."""

    name: ModelName
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|-",
            help="JSON (a V2 body, a V1 body, columns by name or just the values), .npy or .csv; "
            "- or nothing is standard input.",
            show_default=False,
        ),
    ] = None
    data: Annotated[
        str | None, typer.Option(metavar="JSON", help="The JSON itself, instead of a file.")
    ] = None
    version: Annotated[
        str | None, typer.Option(help="This version; otherwise the model's default.")
    ] = None
    binary: Annotated[
        bool,
        typer.Option("--binary", help="Send tensors as binary data, which also carries NaN."),
    ] = False
    output: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this output; may be repeated."),
    ] = None
    as_json: AsJson = False


@taking(InferFlags)
def infer(context: typer.Context, flags: InferFlags) -> None:
    """Run a model on a file, on standard input or on --data, and print its answer.

    Examples: shoal infer iris --data '[[5.1, 3.5, 1.4, 0.2]]';
    shoal infer iris rows.csv; shoal infer iris request.json --json
    """
    source = _read(flags.file, flags.data)
    target = target_of(context)
    if source.name.endswith(".npy") or source.content.startswith(_NPY_MAGIC):
        _run(target, flags, _from_npy(source))
    elif source.name.endswith(".csv"):
        _run(target, flags, _from_csv(source), table=True)
    else:
        _run_json(target, flags, _from_json(source))


# --- what is run --------------------------------------------------------------------------------


def _run_json(target: Target, flags: InferFlags, given: JsonValue) -> None:
    """Complete bodies go as they are, anything else by way of the SDK."""
    if isinstance(given, dict) and isinstance(given.get("inputs"), list):
        with target.client() as client:
            _run_v2_body(client, flags, given)
    elif isinstance(given, dict) and ("instances" in given or "inputs" in given):
        with target.client() as client:
            _run_v1_body(client, flags, given)
    elif isinstance(given, list) and given and all(isinstance(row, dict) for row in given):
        with target.client() as client:
            _run_v1_body(client, flags, {"instances": given})
    elif isinstance(given, list) or (
        isinstance(given, dict) and given and all(isinstance(v, list) for v in given.values())
    ):
        _run(target, flags, given)  # type: ignore[arg-type]  # lists, as checked
    else:
        raise InvalidInput(
            "the JSON is neither a V2 body, a V1 body, a list of values nor lists by input name; "
            "write for example '[[1.0, 2.0]]'"
        )


def _run(
    target: Target,
    flags: InferFlags,
    inputs: Mapping[str, Values] | Values,
    *,
    table: bool = False,
) -> None:
    with target.client() as client:
        result = client.infer(
            flags.name,
            inputs,
            version=flags.version,
            outputs=flags.output or (),
            parameters={"content_type": "pd"} if table else {},
            binary=flags.binary,
        )
    if flags.as_json:
        render.write_json(_document(result))
    else:
        _show(result)


def _run_v2_body(client: Client, flags: InferFlags, body: dict[str, JsonValue]) -> None:
    from shoal.client import calls
    from shoal.client.errors import Answer
    from shoal.client.inference import read_result

    if flags.output:
        body = {**body, "outputs": [{"name": name} for name in flags.output]}
    call = calls.infer_body(flags.name, msgspec.json.encode(body), flags.version)
    document = client.ask_raw(call)
    if flags.as_json:
        render.write_json(document)
    else:
        _show(read_result(flags.name, Answer(200, document)))


def _run_v1_body(client: Client, flags: InferFlags, body: dict[str, JsonValue]) -> None:
    from shoal.client import calls

    if flags.output or flags.version:
        flag = "--output" if flags.output else "--version"
        raise InvalidInput(
            f"{flag}: a V1 body ('instances', or 'inputs' by name) leaves no such choice; "
            "send a V2 body or a plain list"
        )
    call = calls.predict_body(flags.name, msgspec.json.encode(body))
    document = client.ask_raw(call)
    answer = msgspec.json.decode(document)
    predictions = answer.get("predictions") if isinstance(answer, dict) else None
    if flags.as_json or not isinstance(predictions, list):
        render.write_json(document)
        return
    for prediction in predictions:
        render.say(
            prediction if isinstance(prediction, str) else msgspec.json.encode(prediction).decode()
        )


# --- what is read -------------------------------------------------------------------------------


def _read(file: str | None, data: str | None) -> Source:
    if data is not None:
        if file is not None:
            raise typer.BadParameter("give a file or --data, not both")
        return Source("--data", data.encode())
    if file in (None, "-"):
        if file is None and sys.stdin.isatty():
            raise typer.BadParameter("there is no data; give a file, standard input or --data JSON")
        return Source("standard input", sys.stdin.buffer.read())
    assert file is not None
    try:
        return Source(file, Path(file).read_bytes())
    except OSError as error:
        raise InvalidInput(f"file {file}: cannot be read: {error.strerror}") from None


def _from_json(source: Source) -> JsonValue:
    try:
        value: JsonValue = msgspec.json.decode(source.content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{source.name}: not valid JSON: {error}") from None
    return value


def _from_npy(source: Source) -> NDArray[np.generic]:
    import numpy as np

    try:
        array: NDArray[np.generic] = np.load(io.BytesIO(source.content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InvalidInput(f"{source.name}: not a readable .npy file: {error}") from None
    return array


def _from_csv(source: Source) -> dict[str, Values]:
    """The first row names the columns; each becomes an input of shape [rows, 1]."""
    import numpy as np

    try:
        rows = [row for row in csv.reader(io.StringIO(source.content.decode("utf-8-sig"))) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{source.name}: not a readable CSV file: {error}") from None
    if len(rows) < 2:
        raise InvalidInput(f"{source.name}: needs a row of column names and at least one of values")
    names, body = rows[0], rows[1:]
    for index, row in enumerate(body, start=2):
        if len(row) != len(names):
            raise InvalidInput(
                f"{source.name}: row {index} has {len(row)} values for {len(names)} columns"
            )
    columns = zip(*body, strict=True)
    return {
        name: np.asarray(_typed(column)).reshape(-1, 1)
        for name, column in zip(names, columns, strict=True)
    }


def _typed(column: tuple[str, ...]) -> list[int] | list[float] | list[str]:
    """Whole numbers, else numbers (nothing between commas is NaN), else text."""
    for convert in (_whole_numbers, _numbers):
        try:
            return convert(column)
        except ValueError:
            continue
    return list(column)


def _whole_numbers(column: tuple[str, ...]) -> list[int] | list[float]:
    return [int(text) for text in column]


def _numbers(column: tuple[str, ...]) -> list[int] | list[float]:
    return [float(text) if text.strip() else float("nan") for text in column]


# --- what is printed ----------------------------------------------------------------------------


def _show(result: Result) -> None:
    import numpy as np

    for name, array in result.outputs.items():
        shown = np.array2string(
            _texts(array), separator=", ", threshold=_SHOWN_ELEMENTS, max_line_width=100
        )
        indented = shown.replace("\n", "\n  ")
        head = f"{name}  {_datatype(array)} {list(array.shape)}"
        render.say(f"{head}\n  {indented}")


def _document(result: Result) -> bytes:
    """The response as the protocol writes it in JSON."""
    import orjson

    body: dict[str, object] = {
        "model_name": result.model, "model_version": result.model_version
    }
    if result.id is not None:
        body["id"] = result.id
    if result.parameters:
        body["parameters"] = result.parameters
    body["outputs"] = [
        {
            "name": name,
            "datatype": _datatype(array),
            "shape": list(array.shape),
            "data": _texts(array).ravel().tolist() if array.dtype.kind == "O" else array.ravel(),
        }
        for name, array in result.outputs.items()
    ]
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _datatype(array: NDArray[np.generic]) -> str:
    from shoal.codecs.tensors import DATATYPES

    return DATATYPES[array.dtype]


def _texts(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """BYTES as text, as far as they are; BF16 as FP32, which JSON and people can read."""
    import numpy as np

    if array.dtype.kind == "V":
        return array.astype(np.float32)
    if array.dtype.kind != "O":
        return array
    from shoal.codecs.tensors import object_array

    texts = [
        element.decode("utf-8", "backslashreplace") if isinstance(element, bytes) else element
        for element in array.ravel().tolist()
    ]
    return object_array(texts, array.shape)
