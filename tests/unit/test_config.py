from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from lakehouse.config import BucketSettings, SecretRef, Settings, load_settings
from lakehouse.config.__main__ import main
from lakehouse.config.document import render
from lakehouse.errors import ConfigError

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith("LAKEHOUSE__"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(text: str) -> Path:
        file = tmp_path / "etc" / "lake.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    return write_file


def refusal(path: Path | None = None, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, overrides)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


# Where values come from


def test_without_any_source_the_defaults_hold() -> None:
    settings = load_settings(None)
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 31337)
    assert settings.buckets == (BucketSettings(path=Path.cwd() / "data", **{"class": "primary"}),)


def test_later_sources_win(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("[server]\nport = 1\ndrain_seconds = 1\nhost = 'one.example'")
    monkeypatch.setenv("LAKEHOUSE__SERVER__PORT", "2")
    monkeypatch.setenv("LAKEHOUSE__SERVER__DRAIN_SECONDS", "2.5")
    server = load_settings(file, {"server": {"port": 3}}).server
    assert (server.host, server.drain_seconds, server.port) == ("one.example", 2.5, 3)


def test_the_file_of_the_working_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "lakehouse.toml").write_text("[server]\nport = 4")
    assert load_settings(None).server.port == 4


def test_variables_may_be_lower_case_and_hold_whole_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("lakehouse__log__level", "debug")
    monkeypatch.setenv("LAKEHOUSE__BUCKETS", '[{"name": "first", "path": "/x"}, {"name": "second"}]')
    settings = load_settings(None)
    assert settings.log.level == "debug"
    assert [bucket.name for bucket in settings.buckets] == ["first", "second"]


def test_building_settings_does_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE__SERVER__PORT", "2")
    assert Settings().server.port == 31337


def test_relative_paths_start_at_the_directory_of_the_file(write: Any, tmp_path: Path) -> None:
    file = write("buckets = [{ path = '../lake' }]\n[engine]\nspill_directory = 'spill'")
    settings = load_settings(file)
    assert settings.buckets[0].path == tmp_path / "lake"
    assert settings.engine.spill_directory == str(tmp_path / "etc" / "spill")


def test_absolute_and_home_paths_stay(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    file = write("buckets = [{ name = 'a', path = '/lake' }, { name = 'b', path = '~/lake' }]")
    assert [bucket.path for bucket in load_settings(file).buckets] == [
        Path("/lake"),
        Path("/home/somebody/lake"),
    ]


def test_the_file_of_a_database_is_relative_to_the_configuration(write: Any, tmp_path: Path) -> None:
    for text, expected in (
        ("sqlite:///db/c.db", f"sqlite:///{tmp_path}/etc/db/c.db"),
        ("sqlite:////db/c.db", "sqlite:////db/c.db"),
        ("postgresql+psycopg://lake@db.example/lake", "postgresql+psycopg://lake@db.example/lake"),
    ):
        found = load_settings(write(f"[catalog]\ntype = 'sql'\nuri = '{text}'")).catalog
        assert found.location() == expected


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql+psycopg://lake:hunter2@db/lake",
        "postgresql+psycopg://lake:hunter2/x@db/lake",
        "postgresql+psycopg://db/lake?user=lake&password=hunter2",
        "mysql://lake:hunter2@db/lake",
    ],
)
def test_the_password_of_a_database_is_kept_elsewhere(
    uri: str, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = refusal(write(f"[catalog]\ntype = 'sql'\nuri = '{uri}'"))
    assert "without a password" in refused
    assert "hunter2" not in refused
    named = load_settings(write("[catalog]\ntype = 'sql'\nuri = { env = 'CATALOG_URI' }")).catalog
    monkeypatch.setenv("CATALOG_URI", uri)
    if uri.startswith("mysql"):
        with pytest.raises(ConfigError, match="not a URL") as wrong:
            named.location()
        assert "hunter2" not in str(wrong.value)
    else:
        assert named.location() == uri
    assert "hunter2" not in repr(named)


def test_an_empty_spill_directory_stays_empty() -> None:
    assert load_settings(None).engine.spill_directory == ""


def test_settings_cannot_be_changed() -> None:
    settings = load_settings(None)
    with pytest.raises(ValidationError, match="frozen"):
        settings.server.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.log = settings.log  # type: ignore[misc]


# What is refused, and how that reads


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nprot = 1", "unknown key server.prot in FILE, did you mean server.port?"),
        ("[engine]\nport = 1", "unknown key engine.port in FILE, did you mean server.port?"),
        ("prot = 1", "unknown key prot in FILE, did you mean server.port?"),
        ("[sever]\nport = 1", "unknown key sever in FILE, did you mean server?"),
        ("[[buckets]]\npth = 'x'", "unknown key buckets[0].pth in FILE, did you mean buckets[0].path?"),
        ("[log]\nzzz = 1", "unknown key log.zzz in FILE, expected one of level, format"),
        ("_env_file = '.env'", "unknown key _env_file, expected one of server, log, buckets, "),
        ("[server]\nport = 70_000", "server.port = 70000 in FILE: should be less than or equal to 65535"),
        ("[server]\nport = true", "server.port = true in FILE: should be a number, not true or false"),
        ("[server]\nport = 'http'", 'server.port = "http" in FILE: should be a valid integer'),
        (
            "[server]\ndrain_seconds = inf",
            "server.drain_seconds = Infinity in FILE: should be a finite number",
        ),
        (
            "[log]\nlevel = 'loud'",
            "log.level = \"loud\" in FILE: should be 'debug', 'info', 'warning' or 'error'",
        ),
        (
            "[engine]\nmemory_limit = '4'",
            'engine.memory_limit = "4" in FILE: should be an amount such as 4GB',
        ),
        (
            "[engine]\nbatch_bytes = 5_000_000",
            "batch_bytes = 5000000 should not exceed max_message_bytes = 4000000",
        ),
        ("[catalog]\nname = 'temp'", 'catalog.name = "temp" in FILE: should be a name of your own'),
        ("[catalog]\nname = 'my lake'", 'catalog.name = "my lake" in FILE: should be 1 to 64 ASCII letters'),
        ("[catalog]\nwarehouse = '../x'", 'catalog.warehouse = "../x" in FILE: should be a relative key'),
        (
            "[catalog]\ntype = 'nessie'",
            "catalog.type = \"nessie\" in FILE: should be 'object', 'sql', 'rest'",
        ),
        ("[catalog]\ntype = 'rest'", 'catalog: type = "rest" needs uri, such as https://'),
        ("[catalog]\ntype = 'rest'\nuri = 'catalog:8181'", "catalog.uri: should be https://"),
        ("[catalog]\ntype = 'rest'\nuri = 'https://a:b@c'", "catalog.uri: should be without a password"),
        ("[catalog]\ntype = 'hive'\nuri = 'http://h:1'", "catalog.uri: should be thrift://host:9083"),
        (
            "[catalog]\ntype = 'hive'\nuri = 'thrift://h:1'\ncredential = { env = 'X' }",
            'catalog: type = "hive" takes no credential',
        ),
        (
            "[catalog]\ntype = 'rest'\nuri = 'https://c'\ncredential = 'id:s3cret'",
            'catalog.credential: should be { env = "NAME" }',
        ),
        (
            "[catalog]\ntype = 'glue'\nproperties = { 'glue.access-key-id' = 's3cret' }",
            "catalog.properties: holds 'glue.access-key-id', which may be a secret",
        ),
        (
            "[catalog]\ntype = 'glue'\nproperties = { uri = 'x' }",
            "catalog.properties: holds 'uri', which has a key of its own",
        ),
        ("[catalog]\ntype = 'sql'", 'catalog: type = "sql" needs uri, such as sqlite:///path'),
        ("[catalog]\nuri = 'sqlite:///x'", 'catalog: type = "object" takes no uri'),
        (
            "[catalog]\ntype = 'sql'\nuri = 'mysql://h/d'",
            "catalog.uri: should be sqlite:///path/of/catalog.db",
        ),
        ("[catalog]\ntype = 'sql'\nuri = 'sqlite:///:memory:'", "catalog.uri: should be sqlite:///path"),
        ("[catalog]\ntype = 'sql'\nuri = { env = 1 }", 'catalog.uri: should be a text, { env = "NAME" } or'),
        ("[catalog]\ntype = 'sql'\nuri = 7", "catalog.uri: should be sqlite:///path/of/catalog.db or"),
        ("[[buckets]]\nkind = 's4'", "buckets[0].kind = \"s4\" in FILE: should be 'local'"),
        ("buckets = []", "buckets is empty, expected at least one bucket"),
        ("buckets = 5", "buckets = 5 in FILE: should be a list of tables"),
        ("server = 5", "server = 5 in FILE: should be a table"),
        ("[[buckets]]\n[[buckets]]", "the bucket name 'primary' is used 2 times, expected once"),
        ("[server\n", "configuration file FILE is not valid TOML: Expected ']' "),
    ],
)
def test_a_wrong_setting_is_explained(write: Any, text: str, expected: str) -> None:
    file = write(text)
    assert expected in refusal(file).replace(str(file), "FILE")


def test_all_wrong_settings_are_told_at_once(write: Any) -> None:
    message = refusal(write("[server]\nport = -1\nhst = 'x'\n[log]\nlevel = 'x'"))
    assert message.startswith("[CONFIG_INVALID] 3 settings are wrong:")
    assert all(key in message for key in ("server.port", "server.hst", "log.level"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LAKEHOUSE__SERVER__PRT", "1", "LAKEHOUSE__SERVER__PRT, did you mean LAKEHOUSE__SERVER__PORT?"),
        ("lakehouse__server__prt", "1", "lakehouse__server__prt, did you mean LAKEHOUSE__SERVER__PORT?"),
        ("LAKEHOUSE__SERVER_PORT", "1", "LAKEHOUSE__SERVER_PORT, did you mean LAKEHOUSE__SERVER__PORT?"),
        (
            "LAKEHOUSE__BUCKETS__0__PATH",
            "/x",
            "LAKEHOUSE__BUCKETS__0__PATH, did you mean LAKEHOUSE__BUCKETS?",
        ),
        ("LAKEHOUSE__QQQ", "1", "LAKEHOUSE__QQQ, expected LAKEHOUSE__SECTION__KEY"),
        ("LAKEHOUSE__SERVER__PORT", "x", 'server.port = "x" in the environment: should be a valid integer'),
        ("LAKEHOUSE__BUCKETS", "/x", "LAKEHOUSE__BUCKETS is not valid JSON"),
    ],
)
def test_a_wrong_variable_is_explained(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    assert expected in refusal()


def test_the_value_of_an_unknown_variable_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE__SERVER__PASSWORD", "hunter2")
    assert "hunter2" not in refusal()


def test_the_value_of_an_unknown_key_is_not_shown(write: Any) -> None:
    assert "hunter2" not in refusal(write("[server]\npassword = 'hunter2'"))


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    message = refusal(tmp_path / "none.toml")
    assert message.endswith("none.toml cannot be read: No such file or directory")


def test_a_file_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "lakehouse.toml").write_bytes(b"\xff\xfe")
    assert refusal().endswith("configuration file lakehouse.toml is not UTF-8 text")


# Endpoints


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "localhost", "lake", "lake-1.example.org."]
)
def test_names_and_loopback_addresses_are_welcome(host: str) -> None:
    assert load_settings(None, {"server": {"host": host}}).server.host == host


@pytest.mark.parametrize("host", ["10.0.0.1", "8.8.8.8", "fe80::1", "fe80::1%eth0", "::ffff:10.0.0.1"])
def test_other_addresses_need_permission(host: str) -> None:
    message = refusal(None, {"server": {"host": host}})
    assert f"host = '{host}' should be a DNS name or a loopback address" in message
    assert "server.allow_ip_literals = true" in message
    allowed = load_settings(None, {"server": {"host": host, "allow_ip_literals": True}})
    assert allowed.server.host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_all_interfaces_need_permission(host: str) -> None:
    assert "this is all interfaces" in refusal(None, {"server": {"host": host}})
    assert load_settings(None, {"server": {"host": host, "allow_ip_literals": True}}).server.host == host


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "a..b",
        "-a.example",
        "grpc://lake",
        "lake:31337",
        "[::1]",
        "a b",
        "lake/x",
        "ä.example",
        "a" * 64,
    ],
)
def test_what_is_neither_name_nor_address_is_refused(host: str) -> None:
    for allow in (False, True):
        message = refusal(None, {"server": {"host": host, "allow_ip_literals": allow}})
        assert "should be a DNS name or an IP address" in message


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0x7f000001", "0x7f.1", "10.0.0.256", "0177.0.0.1"])
def test_addresses_in_disguise_are_refused(host: str) -> None:
    assert "DNS name or a complete IP address" in refusal(None, {"server": {"host": host}})


# Secrets


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    file.chmod(0o600)
    return file


def test_a_secret_comes_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    secret = SecretRef(env="DB_PASSWORD").resolve()
    assert isinstance(secret, SecretStr)
    assert secret.get_secret_value() == "hunter2"
    assert "hunter2" not in f"{secret} {secret!r}"


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_secret_comes_from_a_private_file(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    assert SecretRef(file=secret_file).resolve().get_secret_value() == "hunter2"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o700, 0o602])
def test_a_secret_file_open_to_others_is_refused(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    with pytest.raises(ConfigError, match=rf"'password' has mode {mode:04o}, expected 0600 \(chmod 600"):
        SecretRef(file=secret_file).resolve()


def test_the_mode_of_a_link_is_that_of_its_target(secret_file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret_file)
    assert SecretRef(file=link).resolve().get_secret_value() == "hunter2"
    secret_file.chmod(0o644)
    with pytest.raises(ConfigError, match="has mode 0644"):
        SecretRef(file=link).resolve()


def test_a_secret_file_of_another_user_is_refused(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = secret_file.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match=f"belongs to user id {owner}, expected {owner + 1}"):
        SecretRef(file=secret_file).resolve()


def test_what_is_no_secret_file_is_refused(secret_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened: No such file or directory"):
        SecretRef(file=tmp_path / "none").resolve()
    with pytest.raises(ConfigError, match="is not a regular file"):
        SecretRef(file=tmp_path).resolve()
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="is not a regular file"):
        SecretRef(file=tmp_path / "pipe").resolve()
    for content, expected in ((b"\n", "empty"), (b"\xff", "not UTF-8"), (b"x" * 65_537, "larger than 65536")):
        secret_file.write_bytes(content)
        with pytest.raises(ConfigError, match=expected):
            SecretRef(file=secret_file).resolve()


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """A directory as Kubernetes mounts a secret into a container."""
    directory = tmp_path / "mounted"
    directory.mkdir()
    directory.chmod(0o1777)
    generation(directory, "..2026_11_21", access_key_id="lake", secret_access_key="hunter2\n")
    for name in ("access_key_id", "secret_access_key"):
        (directory / name).symlink_to(f"..data/{name}")
    return directory


def generation(directory: Path, name: str, **parts: str) -> None:
    (directory / name).mkdir(mode=0o755)
    for part, text in parts.items():
        (directory / name / part).write_text(text)
        (directory / name / part).chmod(0o644)
    (directory / "..new").symlink_to(name)
    (directory / "..new").rename(directory / "..data")


def revealed(directory: Path) -> dict[str, str]:
    parts = SecretRef(directory=directory).provider().parts()
    assert parts is not None
    return {name: part.get_secret_value() for name, part in parts.items()}


def test_a_mounted_secret_is_read_part_by_part_and_anew_each_time(mounted: Path) -> None:
    assert revealed(mounted) == {"access_key_id": "lake", "secret_access_key": "hunter2"}
    with pytest.raises(ConfigError, match="'mounted' holds 2 files, expected one with the secret"):
        SecretRef(directory=mounted).resolve()
    generation(mounted, "..2026_11_22", token="hunter3")
    assert revealed(mounted) == {"token": "hunter3"}
    assert SecretRef(directory=mounted).resolve().get_secret_value() == "hunter3"


def test_a_mounted_secret_that_others_could_replace_is_refused(
    mounted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = mounted / "..data" / "secret_access_key"

    def refused(why: str) -> None:
        with pytest.raises(ConfigError, match=why) as caught:
            revealed(mounted)
        assert "hunter2" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)

    for mode in (0o646, 0o660):
        part.chmod(mode)
        refused("'secret_access_key' of secret directory 'mounted' has mode 06.., expected")
    part.chmod(0o440)
    for directory in (mounted, mounted / "..2026_11_21"):
        before = directory.stat().st_mode
        directory.chmod(0o777)
        refused("has mode 0777")
        directory.chmod(before)
    part.unlink()
    (tmp_path / "elsewhere").write_text("hunter2")
    part.symlink_to(tmp_path / "elsewhere")
    refused("leads out of the directory")
    part.unlink()
    part.write_text("")
    refused("unset or empty")
    part.write_text("hunter2")
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    if part.stat().st_uid:
        refused("expected root or 4242")
    with pytest.raises(ConfigError, match="'none' cannot be read"):
        revealed(tmp_path / "none")


def test_a_reference_to_a_mounted_secret_keeps_to_the_link_that_is_changed(mounted: Path) -> None:
    file = mounted.parent / "lakehouse.toml"
    for key, path in (("directory", "mounted/..data"), ("file", "mounted/access_key_id")):
        file.write_text(f'[[buckets]]\nkind = "s3"\nbucket = "b-1"\nsecret_ref = {{ {key} = "{path}" }}\n')
        reference = load_settings(file).buckets[0].secret_ref
        assert reference is not None
        assert getattr(reference, key) == mounted.parent / path


def test_an_unset_secret_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="environment variable NOT_THERE is unset or empty"):
        SecretRef(env="NOT_THERE").resolve()


@pytest.mark.parametrize(
    "value", [{}, {"env": "A", "file": "b"}, {"env": ""}, {"value": "hunter2"}, "hunter2", 5]
)
def test_a_secret_is_a_reference_and_nothing_else(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        SecretRef.model_validate(value)
    details = caught.value.errors(include_url=False, include_input=False)
    assert "hunter2" not in str(details)


# The file that documents the settings


def test_the_default_file_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(PROJECT / "lakehouse.toml")]) == 0
    assert main(["--toml"]) == 0
    assert capsys.readouterr().out == (PROJECT / "lakehouse.toml").read_text()


def test_a_default_file_that_is_not_current_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old.toml"
    file.write_text(render().replace("port = 31337", "port = 31338"))
    assert main(["--check", str(file)]) == 1
    assert "found 'port = 31338', expected 'port = 31337'" in capsys.readouterr().err
    file.write_text(render().rpartition("\n\n")[0])
    assert main(["--check", str(file)]) == 1
    assert main(["--check", str(tmp_path / "none.toml")]) == 1


def test_the_default_file_says_what_holds_without_it() -> None:
    written = tomllib.loads(render())
    assert {section: set(keys) for section, keys in written.items() if isinstance(keys, dict)} == {
        name: {key for key, value in getattr(Settings(), name) if value not in (None, ()) or name == "roles"}
        for name in written
        if isinstance(written[name], dict)
    }
    assert Settings(**written) == Settings()


def test_every_example_in_the_default_file_is_valid_and_shows_every_key() -> None:
    shown = re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", render())
    assert_explained(Settings(**tomllib.loads(shown)))


def assert_explained(table: BaseModel) -> None:
    for key, value in table:
        for entry in value if isinstance(value, tuple) else (value,):
            if isinstance(entry, BaseModel) and not isinstance(entry, SecretRef):
                assert (type(entry).__doc__ or "").endswith("."), key
                assert_explained(entry)
            else:
                description = type(table).model_fields[key].description or ""
                assert re.fullmatch(r"[A-Za-z\"].{10,}\.", description, re.DOTALL), key


@pytest.mark.parametrize("name", ["container.toml", "lakehouse.toml"])
def test_the_files_of_deployments_are_valid(name: str) -> None:
    settings = load_settings(PROJECT / "deploy" / name)
    assert settings.buckets[0].path == Path("/var/lib/lakehouse")
