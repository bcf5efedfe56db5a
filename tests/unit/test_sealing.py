"""Keys of a file, and what they encrypt."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest

from shoal.domain.errors import InvalidSpecification
from shoal.storage.places.sealing import Keys

ONE, TWO = bytes(range(32)), bytes(range(32, 64))
WHAT = "credentials 'farm'"


def keys(path: Path, *lines: str) -> Keys:
    path.write_text("\n".join(lines) + "\n")
    return Keys.read(str(path))


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_what_is_sealed_is_opened_again_and_does_not_show(tmp_path: Path) -> None:
    some = keys(tmp_path / "k", text(ONE))
    sealed = some.seal(b"SECRET", b"about")
    assert b"SECRET" not in sealed
    assert some.seal(b"SECRET", b"about") != sealed
    assert some.open(sealed, b"about", WHAT) == b"SECRET"


def test_keys_are_base64_or_hex_between_comments(tmp_path: Path) -> None:
    sealed = keys(tmp_path / "a", text(ONE)).seal(b"x", b"")
    same = keys(tmp_path / "b", "# ours", "", f"  {ONE.hex()}\r")
    assert same.open(sealed, b"", WHAT) == b"x"


def test_the_first_key_seals_and_all_open(tmp_path: Path) -> None:
    old, new = keys(tmp_path / "old", text(ONE)), keys(tmp_path / "new", text(TWO))
    both = keys(tmp_path / "both", text(TWO), text(ONE))
    assert both.open(old.seal(b"x", b""), b"", WHAT) == b"x"
    assert new.open(both.seal(b"y", b""), b"", WHAT) == b"y"


def test_without_the_key_it_is_said_which_is_missing(tmp_path: Path) -> None:
    sealed = keys(tmp_path / "one", text(ONE)).seal(b"SECRET", b"")
    with pytest.raises(InvalidSpecification, match=r"'farm' are encrypted with a key that .*two"):
        keys(tmp_path / "two", text(TWO)).open(sealed, b"", WHAT)
    with pytest.raises(InvalidSpecification, match=r"has no key; say .*credentials_key_file"):
        Keys.read("").open(sealed, b"", WHAT)


@pytest.mark.parametrize("change", ["bit", "cut", "about", "all-but-the-mark"])
def test_what_was_changed_is_told_and_not_opened(tmp_path: Path, change: str) -> None:
    some = keys(tmp_path / "k", text(ONE))
    sealed = some.seal(b"SECRET", b"about")
    about = b"other" if change == "about" else b"about"
    sealed = {"bit": sealed[:-1] + bytes([sealed[-1] ^ 1]), "cut": sealed[:-3],
              "about": sealed, "all-but-the-mark": sealed[:8]}[change]
    with pytest.raises(InvalidSpecification, match="changed or damaged; set them again") as told:
        some.open(sealed, about, WHAT)
    assert told.value.__cause__ is None


@pytest.mark.parametrize("content", [
    "", "# none", "SECRET", text(ONE[:16]), text(ONE) + "\nSECRET", text(ONE) + text(TWO), "\xff",
], ids=["empty", "comment", "short", "128-bit", "second", "joined", "bytes"])
def test_a_file_that_is_no_key_file_is_told_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "k"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InvalidSpecification, match=r"storage\.credentials_key_file: .*k") as told:
        Keys.read(str(path))
    assert "openssl rand" in told.value.message
    assert "SECRET" not in told.value.message
    assert told.value.__context__ is None or "SECRET" not in str(told.value.__context__)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecification, match=r"none cannot be read: No such file"):
        Keys.read(str(tmp_path / "none"))


def test_no_text_shows_a_key(tmp_path: Path) -> None:
    some = keys(tmp_path / "k", text(ONE))
    assert text(ONE) not in repr(some)
    assert str(ONE) not in repr(some)
    assert repr(some).startswith("Keys(1 of ")


def test_the_package_that_is_needed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(InvalidSpecification, match=r"pip install 'shoal\[encryption\]'"):
        keys(tmp_path / "k", text(ONE))
