"""Commands about the objects of a server's buckets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flight_server.cli.options import CLIENT, connected, listing, options, print_listing
from flight_server.cli.program import cli
from flight_server.cli.querying import call_with_progress

if TYPE_CHECKING:
    from lakehouse_client import Client, StoredObject

_FILE = click.Path(path_type=Path, dir_okay=False)
_IF_ABSENT = click.option("--if-absent", is_flag=True, help="Fail if there is an object of that key.")


class _ObjectName(click.ParamType[tuple[str, str]]):
    name = "bucket/key"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        bucket, _, key = str(value).partition("/")
        if not bucket or not key:
            self.fail(f"expected bucket/key, found '{value}'", param, ctx)
        return bucket, key


@cli.group()
def objects() -> None:
    """Put, get, list, copy and remove objects of a server's buckets, named bucket/key."""


@objects.command()
@click.argument("source", type=_FILE, metavar="FILE")
@click.argument("target", type=_ObjectName(), metavar="BUCKET/KEY")
@_IF_ABSENT
@click.option("--content-type", help="Media type; kept by S3 stores only.")
@options(*CLIENT)
def put(
    source: Path, target: tuple[str, str], if_absent: bool, content_type: str | None, **server: Any
) -> None:
    """Put FILE, or standard input with -, as an object; it appears whole or not at all."""
    with connected(**server) as client:
        found = client.put_object(
            *target,
            sys.stdin.buffer if str(source) == "-" else source,
            if_absent=if_absent,
            content_type=content_type,
        )
    _say(found)


@objects.command()
@click.argument("source", type=_ObjectName(), metavar="BUCKET/KEY")
@click.argument("target", type=_FILE, metavar="FILE")
@click.option("--verify", is_flag=True, help="Compare hashes of what is there and of what came.")
@options(*CLIENT)
def get(source: tuple[str, str], target: Path, verify: bool, **server: Any) -> None:
    """Read an object into FILE, which appears when it is whole, or to standard output with -."""
    with connected(**server) as client:
        if str(target) == "-":
            client.get_object(*source, sys.stdout.buffer, verify=verify)
            return
        found = client.get_object(*source, target, verify=verify)
    _say(found)


@objects.command()
@click.argument("place", metavar="BUCKET[/PREFIX]")
@click.option("--recursive", "-r", is_flag=True, help="List keys at any depth.")
@options(*CLIENT)
def ls(place: str, recursive: bool, **server: Any) -> None:
    """List the keys of a bucket that begin with a prefix."""
    bucket, _, prefix = place.partition("/")
    table = listing("key", "bytes", "modified")
    table.columns[1].justify = "right"
    with connected(**server) as client:
        for page in _pages(client, bucket, prefix, recursive):
            for name in page.prefixes:
                table.add_row(name, "", "")
            for found in page.objects:
                table.add_row(found.key, f"{found.size:,}", f"{found.modified_at:%Y-%m-%d %H:%M:%S}")
    print_listing(table)


def _pages(client: Client, bucket: str, prefix: str, recursive: bool) -> Iterator[Any]:
    token = None
    while True:
        page = client.actions.objects.list(bucket=bucket, prefix=prefix, recursive=recursive, token=token)
        yield page
        token = page.next_token
        if token is None:
            return


@objects.command()
@click.argument("source", type=_ObjectName(), metavar="BUCKET/KEY")
@click.argument("target", type=_ObjectName(), metavar="BUCKET/KEY")
@_IF_ABSENT
@options(*CLIENT)
def cp(source: tuple[str, str], target: tuple[str, str], if_absent: bool, **server: Any) -> None:
    """Copy an object, within the server."""
    names = {"bucket": source[0], "key": source[1], "to_bucket": target[0], "to_key": target[1]}
    with connected(**server) as client:
        found = call_with_progress(client, "objects.copy", {**names, "if_absent": if_absent})
    click.echo(f"{found['bucket']}/{found['key']}: {found['size']:,} bytes")


@objects.command()
@click.argument("names", type=_ObjectName(), metavar="BUCKET/KEY…", nargs=-1, required=True)
@options(*CLIENT)
def rm(names: tuple[tuple[str, str], ...], **server: Any) -> None:
    """Remove objects."""
    with connected(**server) as client:
        for bucket, key in names:
            found = client.actions.objects.delete(bucket=bucket, key=key)
            click.echo(f"{bucket}/{key}: {found.size:,} bytes")


def _say(found: StoredObject) -> None:
    sha256 = f", SHA-256 {found.sha256}" if found.sha256 else ""
    click.echo(f"{found.bucket}/{found.key}: {found.size:,} bytes{sha256}")
