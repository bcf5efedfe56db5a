"""Settings: where they may be said, which wins, and that whatever is wrong is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from shoal.domain.errors import InvalidSpecification
from shoal.settings import Settings, parse_bytes, read_settings, setting_fields, value_of

MIB, GIB = 1024**2, 1024**3


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "shoal.yaml"
    path.write_text(text)
    return path


# --- where they are said ------------------------------------------------------------------------


def test_without_a_word_all_are_defaults() -> None:
    configuration = read_settings({}, {})
    assert configuration.settings == Settings()
    assert set(configuration.sources.values()) == {"default"}


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = file(tmp_path, "http: {port: 1, max_connections: 11}\ncache: {share: 0.1}\nhost: file")
    configuration = read_settings(
        {"http.port": "3"}, {"SHOAL_HTTP_PORT": "2", "SHOAL_HTTP_MAX_CONNECTIONS": "12"}, path
    )
    settings, sources = configuration.settings, configuration.sources
    assert (settings.http.port, sources["http.port"]) == (3, "flag")
    assert (settings.http.max_connections, sources["http.max_connections"]) == (12, "environment")
    assert (settings.cache.share, sources["cache.share"]) == (0.1, "file")
    assert (settings.host, sources["host"]) == ("file", "file")
    assert (settings.http.idle_timeout_s, sources["http.idle_timeout_s"]) == (75.0, "default")


def test_every_setting_has_a_flag_a_variable_and_a_key(tmp_path: Path) -> None:
    for field in setting_fields():
        group, _, name = field.path.rpartition(".")
        default = value_of(Settings(), field.path)
        if isinstance(default, list):
            default = ",".join(str(each) for each in default)
        key = f"{group}:\n  {name}: {default!r}" if group else f"{name}: {default!r}"
        text = key.replace("True", "true").replace("False", "false")
        assert read_settings({field.path: str(default)}, {}).sources[field.path] == "flag"
        said = read_settings({}, {field.variable: str(default)})
        assert said.sources[field.path] == "environment"
        assert said.settings == Settings(), field.path
        assert read_settings({}, {}, file(tmp_path, text)).settings == Settings(), field.path


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_says_nothing(tmp_path: Path, text: str) -> None:
    assert read_settings({}, {}, file(tmp_path, text)).settings == Settings()


@pytest.mark.parametrize(
    ("said", "value"),
    [("true", True), ("1", True), ("yes", True), ("on", True), ("false", False), ("0", False),
     ("no", False), ("off", False)],
)
def test_switches_take_the_usual_words(said: str, value: bool) -> None:
    settings = read_settings({}, {"SHOAL_FOLDER_WATCH": said}).settings
    assert settings.folder.watch is value


def test_lists_are_separated_by_commas(tmp_path: Path) -> None:
    settings = read_settings({"trust.locations": "/a, /b ,,/c"}, {}).settings
    assert settings.trust.locations == ("/a", "/b", "/c")
    path = file(tmp_path, "trust: {locations: [/a, /b]}")
    assert read_settings({}, {}, path).settings.trust.locations == ("/a", "/b")


def test_home_is_known() -> None:
    assert read_settings({"data_dir": "~/data"}, {}).settings.data_dir == Path.home() / "data"
    assert not str(Settings().data_dir).startswith("~")


def test_they_do_not_change_once_read() -> None:
    with pytest.raises(ValidationError):
        Settings().host = "elsewhere"


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "size_bytes"),
    [("0", 0), ("1000", 1000), ("1_000", 1000), ("512MiB", 512 * MIB), ("2GiB", 2 * GIB),
     ("2g", 2_000_000_000), ("2gb", 2_000_000_000), ("1.5 GB", 1_500_000_000), ("1k", 1000),
     ("1Ki", 1024), ("1 TiB", 1024**4), ("3b", 3), (" 64 mib ", 64 * MIB), ("1e6", 1_000_000)],
)
def test_sizes_take_units(said: str, size_bytes: int) -> None:
    assert parse_bytes(said) == size_bytes
    assert read_settings({"memory": said}, {}).settings.memory == size_bytes


@pytest.mark.parametrize(
    "said",
    ["", "lots", "MiB", "1XiB", "1.2.3", "-1", "1 2", "0x10", "nan", "inf", "1e400", "-5MiB"],
)
def test_what_is_no_size_is_refused(said: str) -> None:
    with pytest.raises(InvalidSpecification, match="setting --memory") as error:
        read_settings({"memory": said}, {})
    assert repr(said) in error.value.message


def test_a_size_may_be_a_number_in_the_file(tmp_path: Path) -> None:
    assert read_settings({}, {}, file(tmp_path, "memory: 4096")).settings.memory == 4096
    with pytest.raises(InvalidSpecification, match=r"memory \(file\)"):
        read_settings({}, {}, file(tmp_path, "memory: [1]"))


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("http.port", "70000", "less than or equal to 65535"),
        ("http.port", "-1", "greater than or equal to 0"),
        ("http.port", "eighty", "valid integer"),
        ("http.port", "", "valid integer"),
        ("cache.share", "0", "greater than 0"),
        ("cache.share", "1.5", "less than or equal to 1"),
        ("cache.eviction", "fifo", "'gdsf' or 'lru'"),
        ("cache.fill", "some", "'recent', 'all' or 'none'"),
        ("load.concurrency", "0", "greater than or equal to 1"),
        ("load.retry_base_s", "-1", "greater than or equal to 0"),
        ("load.timeout_s", "0", "greater than 0"),
        ("load.max_wait_s", "nan", "finite number"),
        ("load.retry_max_s", "inf", "finite number"),
        ("folder.watch", "perhaps", "valid boolean"),
        ("folder.poll_s", "0", "greater than 0"),
        ("log.level", "loud", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_wrong_value_is_refused_wherever_it_was_said(
    tmp_path: Path, path: str, value: str, words: str
) -> None:
    field = next(each for each in setting_fields() if each.path == path)
    group, name = path.split(".")
    for said_as, flags, environ, text in (
        (field.flag, {path: value}, {}, ""),
        (field.variable, {}, {field.variable: value}, ""),
        (f"{path} (file)", {}, {}, f"{group}: {{{name}: {value!r}}}"),
    ):
        with pytest.raises(InvalidSpecification) as error:
            read_settings(flags, environ, file(tmp_path, text))
        message = error.value.message
        assert message.startswith(f"setting {said_as}: {value!r}: ")
        assert words in message
        assert "\n" not in message


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidSpecification, match=r"--http-port.*; setting SHOAL_CACHE_SHARE"):
        read_settings({"http.port": "x"}, {"SHOAL_CACHE_SHARE": "y"})


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("SHOAL_HTP_PORT", "SHOAL_HTTP_PORT"), ("SHOAL_MEMROY", "SHOAL_MEMORY"),
     ("SHOAL_LOAD_TIMEOUT", "SHOAL_LOAD_TIMEOUT_S"), ("SHOAL_XYZZY_PLUGH", "lists all")],
)
def test_an_unknown_variable_is_refused_with_what_was_perhaps_meant(
    variable: str, meant: str
) -> None:
    with pytest.raises(InvalidSpecification, match=f"{variable} is no setting.*{meant}"):
        read_settings({}, {variable: "1"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("htp: {port: 1}", "'htp' is no setting"),
        ("http: {prot: 1}", "'http.prot' is no setting; did you mean http.port?"),
        ("memroy: 1", "'memroy' is no setting; did you mean memory?"),
        ("http: 8080", "group 'http' holds 8080"),
        ("http:", "group 'http' holds None"),
        ("host: {a: 1}", "setting host (file)"),
        ("- http", "holds a list; expected groups"),
        ("just words", "holds a str; expected groups"),
        ("http: {port: [", "not valid YAML"),
        ("memory: 2026-99-99", "not valid YAML"),
        ("1: 2", "'1' is no setting"),
        ("http: {1: 2}", "'http.1' is no setting"),
    ],
)
def test_an_odd_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidSpecification) as error:
        read_settings({}, {}, file(tmp_path, text))
    assert words in error.value.message
    assert "\n" not in error.value.message


def test_a_file_may_say_off_without_quotes(tmp_path: Path) -> None:
    found = read_settings({}, {}, file(tmp_path, "load: {optimize: off}"))
    assert found.settings.load.optimize == "off"
    found = read_settings({}, {}, file(tmp_path, "load: {optimize: auto}"))
    assert found.settings.load.optimize == "auto"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecification, match=r"none\.yaml: cannot be read: No such file"):
        read_settings({}, {}, tmp_path / "none.yaml")
    with pytest.raises(InvalidSpecification, match="cannot be read: Is a directory"):
        read_settings({}, {}, tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidSpecification, match="not valid YAML"):
        read_settings({}, {}, binary)


# --- what is not ours ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variable",
    [
        "SHOAL_SERVICE_HOST", "SHOAL_SERVICE_PORT", "SHOAL_SERVICE_PORT_HTTP", "SHOAL_PORT",
        "SHOAL_PORT_8080_TCP", "SHOAL_PORT_8080_TCP_PROTO", "SHOAL_PORT_8080_TCP_PORT",
        "SHOAL_PORT_8080_TCP_ADDR", "SHOAL_SERVER", "SHOAL_MANAGEMENT", "SHOAL_TIMEOUT",
        "SHOAL_CONFIG", "SHOALS_PORT", "HTTP_PORT",
    ],
)
def test_variables_of_others_are_ignored(variable: str) -> None:
    configuration = read_settings({}, {variable: "tcp://10.0.0.1:8080"})
    assert configuration.settings == Settings()


@pytest.mark.parametrize(
    "variable", ["SHOAL_MANAGEMENT_PORT", "SHOAL_HTTP_PORT", "SHOAL_GRPC_PORT"]
)
def test_settings_that_resemble_those_of_others_still_count(variable: str) -> None:
    with pytest.raises(InvalidSpecification, match=variable):
        read_settings({}, {variable: "tcp://10.0.0.1:8080"})
