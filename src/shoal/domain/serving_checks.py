"""Refuses declarations of serving runtimes that could not mean anything, and says how to mend them.

Looks at the declaration alone: whether a program or an address is there is found out when it is
used.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from typing import Final

from shoal.domain.errors import InvalidSpecification
from shoal.domain.model import MODEL_NAME, check_name
from shoal.domain.serving_runtime import OWN, PROTOCOLS, ServingRuntime

PLACEHOLDERS: Final = (
    "grpc_port", "management_port", "http_port", "metrics_port", "models", "name")

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_]+)\}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNIX: Final = "unix:"
_MOST_PORT: Final = 65_535


def check_serving_runtime(serving: ServingRuntime) -> None:
    """Raise InvalidSpecification unless every field of it can mean something, and all of them
    together."""
    check_name(serving.name, "runtime")
    if serving.name == OWN:
        raise InvalidSpecification(
            f"runtime {OWN!r}: the name stands for the instances themselves; choose another one"
        )
    _check_formats(serving)
    _check_protocols(serving)
    if bool(serving.command) == (serving.address is not None):
        both = "both 'command' and 'address'" if serving.command else (
            "neither 'command' nor 'address'")
        raise _wrong(serving, f"it has {both}; say how instances start it, or where it runs "
                     "already")
    _check_command(serving)
    _check_models(serving)
    _check_addresses(serving)
    _check_numbers(serving)


def _check_formats(serving: ServingRuntime) -> None:
    if not serving.formats:
        raise _wrong(serving, "'formats' is empty; list what it loads, such as 'name: onnx'")
    seen = set()
    for place, each in enumerate(serving.formats):
        where = f"formats[{place}]"
        if not MODEL_NAME.fullmatch(each.name):
            raise _wrong(serving, f"{where}.name is {each.name!r}; use letters, digits, '_', '.', "
                         "'-', as in 'onnx'")
        if each.version is not None and not MODEL_NAME.fullmatch(each.version):
            raise _wrong(serving, f"{where}.version is {each.version!r}; write one such as "
                         "\"1.14\", or leave it out for any")
        if each.priority < 1:
            raise _wrong(serving, f"{where}.priority is {each.priority}; it must be at least 1")
        if (each.name, each.version) in seen:
            version = "" if each.version is None else f" of version {each.version}"
            raise _wrong(serving, f"{where} lists {each.name}{version} a second time; keep one")
        seen.add((each.name, each.version))


def _check_protocols(serving: ServingRuntime) -> None:
    known = ", ".join(PROTOCOLS)
    if not serving.protocols:
        raise _wrong(serving, f"'protocols' is empty; list some of {known}, or leave it out")
    for each in serving.protocols:
        if each not in PROTOCOLS:
            raise _wrong(serving, f"'protocols' has {each!r}{_near(each, PROTOCOLS)}; known are "
                         f"{known}")
    if len(set(serving.protocols)) < len(serving.protocols):
        raise _wrong(serving, "'protocols' lists one twice; keep one")


def _check_command(serving: ServingRuntime) -> None:
    if serving.command and not serving.command[0]:
        raise _wrong(serving, "the first word of 'command' is empty; it is the program")
    for name, value in serving.environment.items():
        if not _VARIABLE.fullmatch(name):
            raise _wrong(serving, f"'environment' has {name!r}, which is no variable's name; use "
                         "letters, digits and '_'")
        _check_word(serving, f"environment.{name}", value)
    for place, word in enumerate(serving.command):
        _check_word(serving, f"command[{place}]", word)
    if serving.environment and not serving.command:
        raise _wrong(serving, "'environment' is for servers that are started; start it with "
                     "'command', or leave it out")


def _check_models(serving: ServingRuntime) -> None:
    """The folder of models that some servers have."""
    if serving.serves is None:
        if serving.models_dir is not None:
            raise _wrong(serving, "'models_dir' goes with 'serves', which says how models are put "
                         "there; say it, or leave both out where it has its models already")
        return
    folder = f"it serves a folder of models ('serves: {serving.serves}'), but"
    if serving.interface != "v2":
        raise _wrong(serving, f"{folder} is given each model's path by its interface "
                     f"{serving.interface!r}; leave one of the two out")
    if serving.command:
        if serving.models_dir is not None:
            raise _wrong(serving, "'models_dir' is for a server that runs already; the folder of "
                         "one that is started is {models}")
        if not any("{models}" in each
                   for each in (*serving.command, *serving.environment.values())):
            raise _wrong(serving, f"{folder} no word of 'command' has {{models}}; write it where "
                         "the program takes the folder")
    elif serving.models_dir is None:
        raise _wrong(serving, f"{folder} it is not said which; say it in 'models_dir', or leave "
                     "'serves' out where it has its models already")
    elif not serving.models_dir.startswith("/") or "\0" in serving.models_dir:
        raise _wrong(serving, f"models_dir {serving.models_dir!r} is no absolute path; write the "
                     "whole of it, as the instances see it")


def _check_word(serving: ServingRuntime, where: str, text: str) -> None:
    if "\0" in text:
        raise _wrong(serving, f"{where} has a zero character; take it out")
    for name in _PLACEHOLDER.findall(text):
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
            raise _wrong(serving, f"{where} has {{{name}}}{_near(name, PLACEHOLDERS)}; known are "
                         f"{known}")


def _check_addresses(serving: ServingRuntime) -> None:
    if serving.management_address is not None and serving.address is None:
        raise _wrong(serving, "'management_address' goes with 'address'; a server that is started "
                     "is told {management_port}")
    for field in ("address", "management_address"):
        text = getattr(serving, field)
        if text is not None and not _is_address(text):
            raise _wrong(serving, f"{field} {text!r} is no address; write host:port with a port "
                         f"from 1 to {_MOST_PORT}, or unix:/path")


def _is_address(text: str) -> bool:
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        return path.startswith("/") and len(path) > 1 and "\0" not in path
    host, colon, port = text.rpartition(":")
    if not colon or not host or any(each in host for each in "/@ \t\r\n\0"):
        return False
    return port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= _MOST_PORT


def _check_numbers(serving: ServingRuntime) -> None:
    for field, least in (("capacity_bytes", 1), ("max_loading", 1)):
        value = getattr(serving, field)
        if value is not None and value < least:
            raise _wrong(serving, f"{field} is {value}; it must be at least {least}")
    for field in ("start_timeout_s", "load_timeout_s", "idle_s"):
        value = getattr(serving, field)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise _wrong(serving, f"{field} is {value}; it must be a number of seconds above 0")


def _near(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _wrong(serving: ServingRuntime, what: str) -> InvalidSpecification:
    return InvalidSpecification(f"runtime {serving.name!r}: {what}")
