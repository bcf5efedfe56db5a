"""Reads declarations of serving runtimes from YAML or JSON: with the fields of ServingRuntime, or
as KServe's manifests. One text may hold several, with `---` between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import yaml

from shoal.domain.errors import InvalidSpecification
from shoal.domain.serving_checks import check_serving_runtime
from shoal.domain.serving_runtime import ServingRuntime, SupportedFormat
from shoal.storage.kserve_runtime import ReadRuntime, is_kserve, read_kserve
from shoal.storage.model_yaml import (
    check_fields,
    check_shape,
    field_and_problem,
    reading_yaml,
)


def read_runtimes(text: str, source: str) -> list[ReadRuntime]:
    """All that the text declares, at least one. source: names it in messages.

    Raises InvalidSpecification for anything else, naming the line, or the field and the way out;
    also when two have one name.
    """
    found: dict[str, ReadRuntime] = {}
    contents = [each for each in _documents(text, source) if each is not None]
    for place, content in enumerate(contents, 1):
        where = source if len(contents) == 1 else f"{source}, document {place}"
        if not isinstance(content, Mapping):
            raise InvalidSpecification(
                f"{where} is not a mapping of fields; write lines such as 'name: triton'")
        read = read_kserve(content, where) if is_kserve(content) else _read_own(content, where)
        if read.serving.name in found:
            raise InvalidSpecification(
                f"{where} declares the runtime {read.serving.name!r} a second time; keep one")
        found[read.serving.name] = read
    if not found:
        raise InvalidSpecification(
            f"{source} declares nothing; write the fields of a serving runtime, such as "
            "'name: triton', or one of KServe's manifests")
    return list(found.values())


def _documents(text: str, source: str) -> Iterator[object]:
    with reading_yaml(source):
        check_shape(text)
        yield from yaml.load_all(text, Loader=yaml.CSafeLoader)


def _read_own(content: Mapping[object, object], where: str) -> ReadRuntime:
    check_fields(content, ServingRuntime, where)
    formats = content.get("formats")
    for place, each in enumerate(formats if isinstance(formats, list) else []):
        if isinstance(each, Mapping):
            check_fields(each, SupportedFormat, f"{where}: formats[{place}]")
    try:
        serving = msgspec.convert(dict(content), ServingRuntime)
    except msgspec.ValidationError as error:
        field, what = field_and_problem(error)
        hint = "; put it in quotes" if "Expected `str" in what and "got `null" not in what else ""
        raise InvalidSpecification(
            f"{where}: {f'{field}: ' if field else ''}{what[0].lower()}{what[1:]}"
            f"{hint or '; correct it'}") from None
    try:
        check_serving_runtime(serving)
    except InvalidSpecification as error:
        raise InvalidSpecification(f"{where}: {error.message}") from None
    return ReadRuntime(serving)
