"""Every scenario beside this file plays as it is written.

`SCENARIOS=rewrite pytest tests/scenarios` writes what the core really commands: read the difference
before committing it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("scenario_transcript", HERE / "transcript.py")
assert _spec is not None
assert _spec.loader is not None
transcript = importlib.util.module_from_spec(_spec)
sys.modules["scenario_transcript"] = transcript
_spec.loader.exec_module(transcript)


@pytest.mark.parametrize("path", sorted(HERE.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    script = path.read_text()
    played: str = transcript.Player().play(script)
    if os.environ.get("SCENARIOS") == "rewrite":
        path.write_text(played)
    assert played == script
