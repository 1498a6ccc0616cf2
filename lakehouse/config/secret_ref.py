"""Secrets are named in the configuration, never written into it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from lakehouse.config.section import Anchored, Section
from lakehouse.errors import ConfigError

_MAX_BYTES = 65_536


class SecretRef(Section):
    """Where a secret is found: ``{ env = "NAME" }`` or ``{ file = "path" }``.

    A file must belong to the user the server runs as and be closed to everybody else
    (mode 0600 or 0400).
    """

    env: str | None = Field(None, min_length=1, description="Environment variable that holds the secret.")
    file: Annotated[Path | None, Anchored()] = Field(None, description="File that holds the secret.")

    @model_validator(mode="before")
    @classmethod
    def _reference_not_value(cls, data: Any) -> Any:
        if isinstance(data, dict | SecretRef):
            return data
        raise PydanticCustomError("secret_ref", 'should be { env = "NAME" } or { file = "path" }')

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise PydanticCustomError("secret_ref", "should have exactly one of env and file")
        return self

    def resolve(self) -> SecretStr:
        """The secret itself, without a trailing newline.

        Raises:
            ConfigError: The variable is unset, or the file is missing, empty or open to others.
        """
        if self.env is not None:
            return self._checked(os.environ.get(self.env, ""), f"environment variable {self.env}")
        assert self.file is not None
        what = f"secret file {self.file.name!r}"
        return self._checked(_read_private(self.file, what), what)

    @staticmethod
    def _checked(value: str, what: str) -> SecretStr:
        secret = value.rstrip("\r\n")
        if not secret:
            raise ConfigError(f"{what} is unset or empty, expected a secret in it")
        return SecretStr(secret)


def _read_private(path: Path, what: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{what} cannot be opened: {error.strerror}") from None
    try:
        _check_private(os.fstat(descriptor), what)  # of what is open, not of what the path may be by now
        content = os.read(descriptor, _MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{what} is larger than {_MAX_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{what} is not UTF-8 text") from None


def _check_private(status: os.stat_result, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{what} is not a regular file")
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"{what} belongs to user id {status.st_uid}, expected {os.geteuid()}, which the server runs as"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o177:
        raise ConfigError(f"{what} has mode {mode:04o}, expected 0600", "chmod 600 the file")
