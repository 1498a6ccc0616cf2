"""The program itself: its exit status, and errors in one line."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from flight_server import __version__
from flight_server.cli.options import stderr
from lakehouse.errors import LakehouseError


class _Commands(click.Group):
    """Commands whose reader may leave before they have said everything, as ``head`` does."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python would complain once more when it flushes on leaving.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return result


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lakehouse")
def cli() -> None:
    """An Arrow Flight SQL server over a lakehouse of Iceberg tables."""


def main() -> None:
    """Run the command. Exit status: 0 done, 1 refused or failed (one line says why), 2 wrong usage."""
    status = run()
    server = sys.modules.get("flight_server.app")
    if server is not None:
        server.leave(status)
    sys.exit(status)


def run(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status."""
    try:
        status = cli.main(arguments, prog_name="lakehouse", standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        text = _explained(error)
        if text is None:
            raise
        stderr().print(f"error: {text}", markup=False)
        return 1
    return status if isinstance(status, int) else 0


def _explained(error: Exception) -> str | None:
    """What a foreseeable error says in one line; none for a defect."""
    if isinstance(error, LakehouseError) or type(error).__name__ == "LakehouseClientError":
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"[FAILED] {error.filename}: {error.strerror}"
    arrow = sys.modules.get("pyarrow")
    if arrow is not None and isinstance(error, arrow.ArrowException | OSError):
        return f"[FAILED] {' '.join(str(error).split())}"
    return None
