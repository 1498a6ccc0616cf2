"""The commands about who gets in, on a bucket without a server."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from click.testing import CliRunner, Result

from flight_server.cli import cli, run
from lakehouse.config import load_settings


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "lakehouse.toml"
    file.write_text(
        '[auth]\napi_keys = true\n[[buckets]]\nname = "primary"\npath = "data"\n[[roles]]\nname = "analyst"\n'
    )
    return file


def keys(config: Path, *arguments: str) -> Result:
    command, *rest = arguments
    return CliRunner().invoke(cli, ["keys", command, "--config", str(config), *rest])


def test_a_password_becomes_a_hash_that_is_all_there_is_on_standard_output():
    result = CliRunner().invoke(cli, ["hash-password"], input="pass wörd \n")
    assert result.exit_code == 0
    assert PasswordHasher().verify(result.stdout.strip(), "pass wörd ")
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize("given", ["", "\n"])
def test_no_password_has_no_hash(given):
    result = CliRunner().invoke(cli, ["hash-password"], input=given)
    assert result.exit_code == 2
    assert "the password is empty" in result.stderr


def test_a_key_is_made_listed_and_revoked(config):
    made = keys(
        config, "create", "nightly load", "--role", "writer", "--role", "analyst", "--principal", "etl"
    )
    assert made.exit_code == 0
    _, key_id, secret = made.stdout.strip().split("_")
    assert "not stored" in made.stderr
    listed = keys(config, "list").stdout
    assert [
        word in listed for word in (key_id, "nightly load", "etl", "analyst, writer", "active", "never")
    ] == [True] * 6
    assert secret not in listed
    assert "is revoked" in keys(config, "revoke", key_id).stderr
    assert "was revoked before" in keys(config, "revoke", key_id).stderr
    assert "revoked" in keys(config, "list").stdout


def test_a_key_may_expire(config):
    assert keys(config, "create", "k", "--role", "reader", "--expires-days", "0.5").exit_code == 0
    assert "never" not in keys(config, "list").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("create", "k"), 2, "Missing option '--role'"),
        (("create", "k", "--role", "root"), 1, "found 'root'"),
        (("create", "", "--role", "reader"), 1, "the key's name is not valid"),
        (("create", "k", "--role", "reader", "--expires-days", "0"), 2, "--expires-days"),
        (("create", "k", "--role", "reader", "--expires-days", "nan"), 2, "--expires-days"),
        (("revoke", "nope"), 1, "[API_KEY_NOT_FOUND]"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(config, capfd, arguments, status, said):
    command, *rest = arguments
    assert run(["keys", command, "--config", str(config), *rest]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_keys_that_no_server_accepts_are_made_with_a_warning(tmp_path):
    config = tmp_path / "lakehouse.toml"
    config.write_text('[[buckets]]\nname = "primary"\npath = "data"\n')
    made = keys(config, "create", "k", "--role", "reader")
    assert made.exit_code == 0
    assert "auth.api_keys = false" in made.stderr


def test_a_hash_from_the_command_is_what_the_configuration_takes(tmp_path):
    secret = tmp_path / "alice.hash"
    secret.write_text(CliRunner().invoke(cli, ["hash-password"], input="pw\n").stdout)
    secret.chmod(stat.S_IRUSR | stat.S_IWUSR)
    config = tmp_path / "lakehouse.toml"
    config.write_text(
        '[[auth.users]]\nname = "alice"\nroles = ["reader"]\npassword_hash = { file = "alice.hash" }\n'
        '[[buckets]]\nname = "primary"\npath = "data"\n'
    )
    (user,) = load_settings(config).auth.users
    assert PasswordHasher().verify(user.password_hash.resolve().get_secret_value(), "pw")
    assert os.fspath(tmp_path) not in repr(user.password_hash.resolve())
