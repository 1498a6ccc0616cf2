"""Secrets are named in the configuration, never written into it.

Where they are is the business of a ``SecretsProvider``: a variable, a private file, or a directory that an
orchestrator such as Kubernetes mounts. Providers read anew each time that they are asked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from lakehouse.config.section import Anchored, Section
from lakehouse.errors import ConfigError

_MAX_BYTES = 65_536
_FORMS = '{ env = "NAME" }, { file = "path" } or { directory = "path" }'
# Kubernetes replaces all files of a mounted secret at once, by pointing this link at another directory.
_GENERATION = "..data"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class SecretsProvider(Protocol):
    """Where a secret is. What it gives is the present content; nothing is remembered."""

    def text(self) -> SecretStr:
        """The secret, where it is one text, without a trailing newline.

        Raises:
            ConfigError: It is not there, empty, or open to others.
        """
        ...

    def parts(self) -> Mapping[str, SecretStr] | None:
        """The secret, where it is several texts with a name each; None where it is one text.

        Raises:
            ConfigError: It is not there, or open to others.
        """
        ...


class EnvironmentSecret:
    """A secret in an environment variable."""

    def __init__(self, name: str) -> None:
        self._name = name

    def text(self) -> SecretStr:
        """The value of the variable."""
        return _secret(os.environ.get(self._name, ""), f"environment variable {self._name}")

    def parts(self) -> None:
        """None: it is one text."""
        return


class FileSecret:
    """A secret in a file that nobody but the user the server runs as can read or write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def text(self) -> SecretStr:
        """What is in the file."""
        what = f"secret file {self._path.name!r}"
        return _secret(_read(self._path, what, _check_private), what)

    def parts(self) -> None:
        """None: it is one text."""
        return


class DirectorySecret:
    """A secret of one file for each part, in a directory that somebody else fills.

    Mounted secrets belong to root and may be readable by all within a container. What is made sure of is
    that no other user can put something else in their place: files belong to root or to the user that the
    server runs as, only their owner can write to them, and links do not lead out of the directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def text(self) -> SecretStr:
        """What is in the only file."""
        found = self.parts()
        if len(found) != 1:
            raise ConfigError(
                f"secret directory {self._path.name!r} holds {len(found)} files, expected one with the secret"
            )
        return next(iter(found.values()))

    def parts(self) -> Mapping[str, SecretStr]:
        """What is in the files, by their names."""
        what = f"secret directory {self._path.name!r}"
        try:
            root = self._path.resolve(strict=True)
            # The files of one generation: those of two need not belong together.
            place = (root / _GENERATION).resolve(strict=True) if (root / _GENERATION).is_dir() else root
            _check_directory(root, what)
            _check_directory(place, what)
            names = sorted(file.name for file in place.iterdir() if not file.name.startswith("."))
        except OSError as error:
            raise ConfigError(f"{what} cannot be read: {error.strerror}") from None
        found = {}
        for name in names:
            file = f"file {name!r} of {what}"
            target = (place / name).resolve()
            if not target.is_relative_to(root):
                raise ConfigError(f"{file} leads out of the directory")
            found[name] = _secret(_read(target, file, _check_guarded), file)
        return found


class SecretRef(Section):
    """Where a secret is found: ``{ env = "NAME" }``, ``{ file = "path" }`` or ``{ directory = "path" }``.

    A file must belong to the user the server runs as and be closed to everybody else
    (mode 0600 or 0400). A directory holds one file for each part of the secret, such as Kubernetes mounts.
    """

    env: str | None = Field(None, min_length=1, description="Environment variable that holds the secret.")
    file: Annotated[Path | None, Anchored(keeps_links=True)] = Field(
        None, description="File that holds the secret."
    )
    directory: Annotated[Path | None, Anchored(keeps_links=True)] = Field(
        None, description="Directory with a file for each part of the secret."
    )

    @model_validator(mode="before")
    @classmethod
    def _reference_not_value(cls, data: Any) -> Any:
        if isinstance(data, dict | SecretRef):
            return data
        raise PydanticCustomError("secret_ref", "should be {forms}", {"forms": _FORMS})

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(place is not None for place in (self.env, self.file, self.directory)) != 1:
            raise PydanticCustomError("secret_ref", "should have exactly one of env, file and directory")
        return self

    def provider(self) -> SecretsProvider:
        """Who gives the secret."""
        if self.env is not None:
            return EnvironmentSecret(self.env)
        if self.file is not None:
            return FileSecret(self.file)
        assert self.directory is not None
        return DirectorySecret(self.directory)

    def resolve(self) -> SecretStr:
        """The secret itself, without a trailing newline.

        Raises:
            ConfigError: The variable is unset, or the file is missing, empty or open to others.
        """
        return self.provider().text()


def _secret(value: str, what: str) -> SecretStr:
    secret = value.rstrip("\r\n")
    if not secret:
        raise ConfigError(f"{what} is unset or empty, expected a secret in it")
    return SecretStr(secret)


def _read(path: Path, what: str, check: Callable[[os.stat_result, str], None]) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{what} cannot be opened: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)  # of what is open, not of what the path may be by now
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{what} is not a regular file")
        check(status, what)
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
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"{what} belongs to user id {status.st_uid}, expected {os.geteuid()}, which the server runs as"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o177:
        raise ConfigError(f"{what} has mode {mode:04o}, expected 0600", "chmod 600 the file")


def _check_guarded(status: os.stat_result, what: str) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{what} belongs to user id {status.st_uid}, expected root or {os.geteuid()}, which the server "
            "runs as"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & _WRITABLE_BY_OTHERS:
        raise ConfigError(f"{what} has mode {mode:04o}, expected one in which only its owner can write")


def _check_directory(path: Path, what: str) -> None:
    status = path.stat()
    # In a directory with the sticky bit, as Kubernetes mounts them, nobody can replace the files of others.
    if not status.st_mode & stat.S_ISVTX:
        _check_guarded(status, what)
