"""What instances of a mesh may be told of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.domain.errors import InvalidSpecification
from shoal.settings import read_settings


def test_labels_are_pairs() -> None:
    mesh = read_settings({"mesh.labels": "disk=ssd, team=a=b"}, {}).settings.mesh
    assert mesh.labels_by_name() == {"disk": "ssd", "team": "a=b"}


def test_labels_may_be_a_mapping_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "shoal.yaml"
    path.write_text("mesh: {labels: {disk: ssd, rack: 7}}")
    mesh = read_settings({}, {}, path).settings.mesh
    assert mesh.labels_by_name() == {"disk": "ssd", "rack": "7"}


@pytest.mark.parametrize(
    ("said", "why"),
    [("ssd", "write name=value"), ("=ssd", "write name=value"), ("a=1,a=2", "occurs twice")],
)
def test_a_wrong_label_is_refused(said: str, why: str) -> None:
    with pytest.raises(InvalidSpecification, match=f"mesh.labels.*{why}"):
        read_settings({"mesh.labels": said}, {})


@pytest.mark.parametrize("said", ["", "10.0.0.5:8083", "peer-1.shoal:0", "[::1]:8083"])
def test_an_address_is_a_host_and_a_port(said: str) -> None:
    assert read_settings({"mesh.listen": said}, {}).settings.mesh.listen == said


@pytest.mark.parametrize("said", ["8083", ":8083", "host", "host:", "host:x", "::1:80", "h:65536"])
@pytest.mark.parametrize("name", ["mesh.advertise", "mesh.listen"])
def test_a_wrong_address_is_refused(name: str, said: str) -> None:
    with pytest.raises(InvalidSpecification, match=f"{name}.*write host:port"):
        read_settings({name: said}, {})
