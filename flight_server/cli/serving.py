"""Commands that serve."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from flight_server import __version__
from flight_server.cli.arrow_memory import bound_arrow_memory
from flight_server.cli.options import CONFIG, SERVER, options, settings_of
from flight_server.cli.program import cli


@cli.command()
@options(*SERVER)
def serve(config: Path | None, **server: Any) -> int:
    """Serve until SIGTERM or Ctrl-C, then let running statements finish and stop."""
    bound_arrow_memory()
    import structlog  # noqa: PLC0415

    from flight_server import app  # noqa: PLC0415
    from flight_server.logs import configure_logging  # noqa: PLC0415

    settings = settings_of(config, **server)
    configure_logging(settings.log)
    log = structlog.get_logger(__name__)
    # At a quieter level than info the line would be lost, and with it the port.
    say = log.info if settings.log.level in ("debug", "info") else log.error
    return app.serve(settings, ready=lambda uri: say("listening", uri=uri, version=__version__))


@cli.command()
@options(*SERVER)
@click.option("--exit", "leave_after", is_flag=True, envvar="DEMO_EXIT", help="Stop after the answers.")
def demo(config: Path | None, leave_after: bool, **server: Any) -> int:
    """Serve sample data and show what can be done with it."""
    bound_arrow_memory()
    from flight_server.demo import run_demo  # noqa: PLC0415

    return run_demo(settings_of(config, **server), stay=not leave_after)


@cli.command("check-config")
@options(CONFIG)
@click.option("--show", is_flag=True, help="Print every setting that holds, as JSON.")
def check_config(config: Path | None, show: bool) -> None:
    """Say whether the configuration is right, its certificates and who could reach the server included."""
    from flight_server.exposure import check_exposure  # noqa: PLC0415
    from flight_server.tls import load_tls  # noqa: PLC0415

    settings = settings_of(config)
    check_exposure(settings)
    load_tls(settings, datetime.now(UTC))
    click.echo(settings.model_dump_json(indent=2) if show else "the configuration is right")


@cli.command("make-certificate")
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("tls"),
    show_default=True,
    help="Where the files go.",
)
@click.option("--client", "clients", multiple=True, metavar="NAME", help="Make one for a client, too.")
def make_certificate(hosts: tuple[str, ...], directory: Path, clients: tuple[str, ...]) -> None:
    """Make a certificate to try encryption with, and the authority that vouches for it.

    HOST are the names and addresses by which clients reach the server: this machine's name when left out.
    """
    from flight_server.certificates import make_certificates  # noqa: PLC0415

    for path in make_certificates(directory, hosts, clients, datetime.now(UTC)):
        click.echo(path)
    lines = ["[server.tls]", f'certificate = "{directory}/server.pem"', f'key = "{directory}/server.key"']
    if clients:
        lines.append(f'client_authorities = "{directory}/authority.pem"')
    for name in clients:
        lines += [
            "",
            "[[auth.certificates]]",
            f'subject = "{name}"',
            f'name = "{name}"',
            'roles = ["reader"]',
        ]
    click.echo("\nFor the configuration:\n\n" + "\n".join(lines))
    click.echo(f"\nClients get {directory}/authority.pem, to trust the server; keys stay with their owners.")
