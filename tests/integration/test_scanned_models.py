"""What a scanner says of models that can run code, as events; and that it decides nothing."""

from __future__ import annotations

import importlib.util
import os
import pickle
import shutil
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
from examples.cases import Case
from tests.served import Served, until
from tests.storage_fakes import put

from shoal.domain.errors import RuntimeMissing
from shoal.settings import TrustSettings
from shoal.storage.scanning import advice_on, check_scanner

EVIL = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."  # os.system("true")
class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


TAME = pickle.dumps(np.arange(3.0))


def test_a_dangerous_import_is_warned_of(tmp_path: Path) -> None:
    advice = advice_on(put(tmp_path / "evil.pkl", EVIL))
    assert advice is not None
    assert advice.dangerous
    assert advice.text == "picklescan warns: evil.pkl imports posix.system"


def test_it_is_found_in_any_file_of_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "m/model.py", b"class M: ...")
    put(tmp_path / "m/inner/words", EVIL)
    put(tmp_path / "m/tame.pkl", TAME)
    advice = advice_on(tmp_path / "m")
    assert advice is not None
    assert advice.text == "picklescan warns: inner/words imports posix.system"


@pytest.mark.parametrize("way", ["zlib", "gzip", "bz2", "xz", "lzma"])
def test_it_is_found_in_what_joblib_compressed(tmp_path: Path, way: str) -> None:
    joblib.dump([Evil()], tmp_path / "packed.joblib", compress=(way, 3))
    advice = advice_on(tmp_path / "packed.joblib")
    assert advice is not None
    assert advice.text == "picklescan warns: packed.joblib imports posix.system"


def test_what_unpacks_to_too_much_is_read_in_part(tmp_path: Path) -> None:
    endless = zlib.compressobj(9)
    packed = endless.compress(EVIL[:2]) + b"".join(
        endless.compress(b"N0" * 2**22) for _ in range(40)) + endless.flush()
    assert len(packed) < 2**20
    advice = advice_on(put(tmp_path / "bomb.joblib", packed), timeout_s=2)
    assert advice is not None
    assert not advice.dangerous
    assert "it could read bomb.joblib only in part" in advice.text or (
        "it did not get beyond bomb.joblib" in advice.text)


def test_a_tame_pickle_is_told_as_such(tmp_path: Path) -> None:
    advice = advice_on(put(tmp_path / "tame.pkl", TAME))
    assert advice is not None
    assert not advice.dangerous
    assert advice.text == "picklescan finds nothing that it knows as dangerous"


def test_what_could_not_be_read_is_told(tmp_path: Path) -> None:
    joblib.dump([np.arange(1000.0)], tmp_path / "model.joblib")
    put(tmp_path / "other.pkl", b"no pickle at all")
    for name in ("model.joblib", "other.pkl"):
        advice = advice_on(tmp_path / name)
        assert advice is not None
        assert f"it could read {name} only in part" in advice.text


def test_where_there_is_no_pickle_there_is_no_advice(tmp_path: Path) -> None:
    assert advice_on(put(tmp_path / "m/model.py", b"import os").parent) is None


def test_a_scan_that_does_not_end_is_ended(tmp_path: Path) -> None:
    put(tmp_path / "m/a.pkl", EVIL)
    advice = advice_on(tmp_path / "m", timeout_s=0.001)
    assert advice is not None
    assert not advice.dangerous
    assert "it did not get beyond a.pkl, within 0.001 s" in advice.text


def test_a_missing_scanner_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    check_scanner()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("shoal.storage.scanning.find_spec", lambda name: None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'shoal\[scan\]'"):
        check_scanner()


def test_nothing_is_scanned_unless_it_is_asked_for() -> None:
    assert TrustSettings().scan == "off"


def test_advice_comes_as_events_and_refuses_nothing(
    tmp_path: Path, example_cases: tuple[Path, list[Case]]
) -> None:
    shutil.copytree(example_cases[0] / "iris", tmp_path / "models/iris")
    shutil.copytree(example_cases[0] / "iris-net", tmp_path / "models/iris-net")
    put(tmp_path / "elsewhere/evil.pkl", EVIL)
    with Served(tmp_path / "models", "--trust-scan", "advise", "--folder-settle-s", "0",
                data_dir=tmp_path / "data") as served:

        def said(model: str, kind: str) -> list[str]:
            return [each.message for each in served.client.events(model=model).events
                    if each.kind == kind]

        until(lambda: said("iris", "scanned"), "advice on a watched model")
        served.client.register("evil", str(tmp_path / "elsewhere/evil.pkl"), trust="code")
        until(lambda: said("evil", "scan_warning"), "advice on a registered model")
        assert said("evil", "scan_warning") == [
            "model 'evil' version 1: picklescan warns: evil.pkl imports posix.system"]
        assert said("iris-net", "scanned") == []
        request = next(case.request for case in example_cases[1] if case.model == "iris")
        assert served.infer("iris", request).status_code == 200
