"""Decodes the protobuf text of a `config.pbtxt` to typed values, with no judgement of them.

Only the fields that `triton` reads are typed; any other is skipped, as Triton's own schema has
hundreds and grows. The grammar is https://protobuf.dev/reference/protobuf/textformat-spec/;
protobuf's own parser stumbles over unknown fields that hold lists of messages, which are common.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

import msgspec

from shoal.domain.errors import InvalidSpecification

# Triton's names for the protocol's datatypes.
DATATYPES: Final = {
    "TYPE_BOOL": "BOOL",
    "TYPE_UINT8": "UINT8",
    "TYPE_UINT16": "UINT16",
    "TYPE_UINT32": "UINT32",
    "TYPE_UINT64": "UINT64",
    "TYPE_INT8": "INT8",
    "TYPE_INT16": "INT16",
    "TYPE_INT32": "INT32",
    "TYPE_INT64": "INT64",
    "TYPE_FP16": "FP16",
    "TYPE_FP32": "FP32",
    "TYPE_FP64": "FP64",
    "TYPE_STRING": "BYTES",
    "TYPE_BF16": "BF16",
}


class Reshape(msgspec.Struct, frozen=True):
    shape: tuple[int, ...] = ()


class Tensor(msgspec.Struct, frozen=True):
    name: str = ""
    data_type: str = "TYPE_INVALID"
    dims: tuple[int, ...] = ()
    reshape: Reshape | None = None


class Latest(msgspec.Struct, frozen=True):
    num_versions: int = 1


class Specific(msgspec.Struct, frozen=True):
    versions: tuple[int, ...] = ()


class All(msgspec.Struct, frozen=True):
    pass


class Policy(msgspec.Struct, frozen=True):
    latest: Latest | None = None
    all: All | None = None
    specific: Specific | None = None


class ParameterValue(msgspec.Struct, frozen=True):
    string_value: str = ""


class Parameter(msgspec.Struct, frozen=True):
    key: str = ""
    value: ParameterValue = ParameterValue()


class InstanceGroup(msgspec.Struct, frozen=True):
    count: int = 1


class Config(msgspec.Struct, frozen=True):
    """The part of Triton's ModelConfig that is read, by its field names."""

    name: str = ""
    platform: str = ""
    backend: str = ""
    max_batch_size: int = 0
    input: tuple[Tensor, ...] = ()
    output: tuple[Tensor, ...] = ()
    default_model_filename: str = ""
    version_policy: Policy | None = None
    parameters: tuple[Parameter, ...] = ()
    instance_group: tuple[InstanceGroup, ...] = ()


# Fields of the messages above that may be given more than once.
_REPEATED: Final = frozenset({
    "dims", "input", "instance_group", "output", "parameters", "shape", "versions",
})
_MAX_DEPTH: Final = 32  # Triton's deepest message has six levels

Value: TypeAlias = "str | int | float | bool | Mapping[str, list[Value]]"

_TOKEN: Final = re.compile(r"""
    (?P<space>   (?: \s | \#[^\n]* )+ )
  | (?P<string>  "(?:[^"\\\n]|\\[^\n])*" | '(?:[^'\\\n]|\\[^\n])*' )
  | (?P<float>   -?(?: \d+\.\d*(?:[eE][+-]?\d+)?[fF]? | \.\d+(?:[eE][+-]?\d+)?[fF]?
                     | \d+[eE][+-]?\d+[fF]? | \d+[fF] )(?![\w.]) )
  | (?P<int>     -?(?: 0[xX][0-9a-fA-F]+ | \d+ )(?![\w.]) )
  | (?P<name>    -?[A-Za-z_]\w* )
  | (?P<sign>    [{}\[\]<>:,;] )
""", re.VERBOSE)
_EXTENSION: Final = re.compile(r"\[[\w./\-\s]+\]")
_ESCAPE: Final = re.compile(
    r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))"
)
_ESCAPED: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def parse_text(text: str, source: str) -> Config:
    """Raises InvalidSpecification, with line and column, for what is no model configuration."""
    try:
        content = _Parser(text).parse()
        return msgspec.convert(_plain(content), Config)
    except _Wrong as error:
        before = text[: error.at]
        line, column = before.count("\n") + 1, error.at - (before.rfind("\n") + 1) + 1
        raise InvalidSpecification(
            f"{source}, line {line}, column {column}: {error.problem}; correct the text there"
        ) from error
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        raise InvalidSpecification(
            f"{source}: {path.rstrip('`')}: {problem[0].lower()}{problem[1:]}; correct the value"
        ) from error


def _plain(message: Mapping[str, list[Value]]) -> dict[str, object]:
    """Repeated fields as lists; of others the last value, as protobuf merges them."""
    plain: dict[str, object] = {}
    for name, values in message.items():
        inner = [_plain(value) if isinstance(value, Mapping) else value for value in values]
        if name in _REPEATED:
            plain[name] = inner
        elif inner:
            plain[name] = inner[-1]
    return plain


class _Wrong(Exception):
    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.at = at


class _Token(NamedTuple):
    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        return "the end of the text" if self.kind == "end" else repr(self.text[:40])


class _Parser:
    """By recursive descent; `_token` is the next one."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._token = _Token("end", "", 0)
        self._advance()

    def parse(self) -> dict[str, list[Value]]:
        return self._fields("")

    def _advance(self) -> _Token:
        """Move on; returns what was next until now."""
        passed = self._token
        while self._at < len(self._text):
            match = _TOKEN.match(self._text, self._at)
            if match is None:
                raise _Wrong(f"unexpected {self._text[self._at]!r}", self._at)
            kind = match.lastgroup or ""
            token = _Token(kind, match.group(), self._at)
            self._at = match.end()
            if kind != "space":
                self._token = token
                return passed
        self._token = _Token("end", "", len(self._text))
        return passed

    def _take(self, *signs: str) -> str:
        """The next sign if it is one of these; else an empty text, and nothing is taken."""
        if self._token.kind == "sign" and self._token.text in signs:
            return self._advance().text
        return ""

    def _fields(self, end: str) -> dict[str, list[Value]]:
        fields: dict[str, list[Value]] = {}
        while not (self._take(end) if end else self._token.kind == "end"):
            name = self._field_name()
            colon = self._take(":")
            if not colon and not (self._token.kind == "sign" and self._token.text in "{<["):
                raise _Wrong(f"expected ':' after {name!r}, found {self._token}", self._token.at)
            fields.setdefault(name, []).extend(self._values())
            self._take(",", ";")
        return fields

    def _field_name(self) -> str:
        if self._token.text == "[":  # of an extension, or the URL of an Any
            match = _EXTENSION.match(self._text, self._token.at)
            if match:
                self._at = match.end()
                self._advance()
                return match.group()
        if self._token.kind != "name":
            raise _Wrong(f"expected the name of a field, found {self._token}", self._token.at)
        return self._advance().text

    def _values(self) -> list[Value]:
        if not self._take("["):
            return [self._value()]
        values: list[Value] = []
        while not self._take("]"):
            values.append(self._value())
            if not self._take(",") and self._token.text != "]":
                raise _Wrong(f"expected ',' or ']', found {self._token}", self._token.at)
        return values

    def _value(self) -> Value:
        at = self._token.at
        if opening := self._take("{", "<"):
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise _Wrong(f"nested deeper than {_MAX_DEPTH} levels", at)
            fields = self._fields("}" if opening == "{" else ">")
            self._depth -= 1
            return fields
        token = self._advance()
        match token.kind:
            case "string":
                return self._string(token)
            case "int":
                return _integer(token)
            case "float":
                return float(token.text.rstrip("fF"))
            case "name":
                return {"true": True, "false": False}.get(token.text, token.text)
        raise _Wrong(f"expected a value, found {token}", at)

    def _string(self, first: _Token) -> str:
        """Neighbouring literals are one text."""
        content = _unescape(first)
        while self._token.kind == "string":
            content += _unescape(self._advance())
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise _Wrong("the text is not UTF-8", first.at) from error


def _integer(token: _Token) -> int:
    digits = token.text.lstrip("-")
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits.startswith("0") else 10
    try:
        number = int(token.text, base)
    except ValueError as error:  # an 8 in an octal number, or thousands of digits
        raise _Wrong(f"{token} is no whole number", token.at) from error
    if not -(2**63) <= number < 2**63:
        raise _Wrong(f"{token} is out of range", token.at)
    return number


def _unescape(token: _Token) -> bytes:
    """The bytes of a literal; escapes may name single bytes of a character."""
    content, at = bytearray(), 1
    for match in _ESCAPE.finditer(token.text, 1, len(token.text) - 1):
        content += token.text[at : match.start()].encode("utf-8", "surrogatepass")
        at = match.end()
        octal, hexadecimal, short, long, plain = match.groups()
        if octal or hexadecimal:
            content.append((int(octal, 8) if octal else int(hexadecimal, 16)) & 0xFF)
        elif short or long:
            try:
                content += chr(int(short or long, 16)).encode("utf-8", "surrogatepass")
            except (ValueError, OverflowError) as error:
                raise _Wrong(f"{match.group()} is no character", token.at) from error
        else:
            content += _ESCAPED.get(plain, plain).encode("utf-8", "surrogatepass")
    return bytes(content + token.text[at:-1].encode("utf-8", "surrogatepass"))
