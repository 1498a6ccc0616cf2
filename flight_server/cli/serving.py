"""Commands that serve."""

from __future__ import annotations

from pathlib import Path

import click

from flight_server import __version__
from flight_server.cli.options import CONFIG, SERVER, options, settings_of
from flight_server.cli.program import cli


@cli.command()
@options(*SERVER)
def serve(config: Path | None, host: str | None, port: int | None) -> int:
    """Serve until SIGTERM or Ctrl-C, then let running statements finish and stop."""
    import structlog  # noqa: PLC0415

    from flight_server import app  # noqa: PLC0415
    from flight_server.logs import configure_logging  # noqa: PLC0415

    settings = settings_of(config, host, port)
    configure_logging(settings.log)
    log = structlog.get_logger(__name__)
    # At a quieter level than info the line would be lost, and with it the port.
    say = log.info if settings.log.level in ("debug", "info") else log.error
    return app.serve(settings, ready=lambda uri: say("listening", uri=uri, version=__version__))


@cli.command()
@options(*SERVER)
@click.option("--exit", "leave_after", is_flag=True, envvar="DEMO_EXIT", help="Stop after the answers.")
def demo(config: Path | None, host: str | None, port: int | None, leave_after: bool) -> int:
    """Serve sample data and show what can be done with it."""
    from flight_server.demo import run_demo  # noqa: PLC0415

    return run_demo(settings_of(config, host, port), stay=not leave_after)


@cli.command("check-config")
@options(CONFIG)
@click.option("--show", is_flag=True, help="Print every setting that holds, as JSON.")
def check_config(config: Path | None, show: bool) -> None:
    """Say whether the configuration is right."""
    settings = settings_of(config)
    click.echo(settings.model_dump_json(indent=2) if show else "the configuration is right")
