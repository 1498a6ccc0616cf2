"""Commands about job files, which any scheduler can trigger."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flight_server.cli.options import CLIENT, connected, listing, options, print_listing, stderr
from flight_server.cli.program import cli

if TYPE_CHECKING:
    from lakehouse_client import Client

    from flight_server.cli.job_file import JobFile, Step
    from flight_server.cli.job_run import Outcome

_DIRECTORY = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("jobs"),
    show_default=True,
    envvar="LAKEHOUSE_JOBS",
    show_envvar=True,
    help="Where the job files are.",
)
_RUN_HELP = """\
Do the steps of a job in their order.

The job is NAME.toml in the directory of jobs, or FILE, which ends in .toml. It is safe to do it again,
after it was killed or while it is at work elsewhere: what was brought is not brought twice.

Exit status: 0 all steps succeeded, 1 one failed or the job is wrong, 2 wrong usage, 130 interrupted.

\b
Examples:
  lakehouse job run nyc
  DAY=2026-01-31 lakehouse job run jobs/orders.toml --json
"""
_CHECK_HELP = """\
Say whether jobs are right, without running them: all of the directory, or those that are named.

Looks at the files and variables, and asks the server whether each action would take its request, and
whether each upload would be taken. With --offline no server is asked.

\b
Examples:
  lakehouse job check
  lakehouse job check nyc --offline
"""


@cli.group()
def job() -> None:
    """Run, check and list job files: repeatable ingests, in TOML (docs/jobs.md)."""


@job.command(help=_RUN_HELP)
@click.argument("name", metavar="NAME|FILE")
@_DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="Print what became of each step as JSON.")
@options(*CLIENT)
def run(name: str, directory: Path, as_json: bool, **server: Any) -> int:
    """Do a job; gives the exit status."""
    from flight_server.cli.job_file import find_job  # noqa: PLC0415
    from flight_server.cli.job_run import prepared, run_steps  # noqa: PLC0415

    file = find_job(name, directory)
    steps = prepared(file)
    console = stderr()

    def told(number: int, outcome: Outcome) -> None:
        text = f"{file.name} {number + 1}/{len(steps)} {outcome.step}: {outcome.state}"
        why = f": {outcome.message}" if outcome.message else ""
        console.print(f"{text} in {outcome.seconds:.1f} s{why}", style="dim", markup=False)

    with connected(**server) as client:
        outcomes = run_steps(client, file, steps, told)
    failed = not all(outcome.is_good for outcome in outcomes)
    if as_json:
        state = "failed" if failed else "succeeded"
        told_steps = [outcome.told() for outcome in outcomes]
        found = {"job": file.name, "state": state, "steps": told_steps}
        click.echo(json.dumps(found, indent=2, ensure_ascii=False, default=datetime.isoformat))
    else:
        _summarise(outcomes)
    return 1 if failed else 0


def _summarise(outcomes: list[Outcome]) -> None:
    table = listing("step", "does", "state", "rows in", "stored", "rejected", "seconds")
    for column in table.columns[3:]:
        column.justify = "right"
    for outcome in outcomes:
        counts = (outcome.rows_in, outcome.rows_stored, outcome.rows_rejected)
        numbers = ("" if count is None else f"{count:,}" for count in counts)
        table.add_row(outcome.step, outcome.does, outcome.state, *numbers, f"{outcome.seconds:.1f}")
    print_listing(table)


@job.command("list")
@_DIRECTORY
def list_jobs(directory: Path) -> None:
    """List the jobs of the directory, and what is wrong with those that cannot be read."""
    from flight_server.cli.job_file import JobError, JobFile  # noqa: PLC0415

    table = listing("job", "steps", "what it is for")
    for path in sorted(directory.glob("*.toml")):
        try:
            found = JobFile(path)
        except JobError as error:
            table.add_row(path.stem, "?", error.message)
            continue
        table.add_row(found.name, str(len(found.job.steps)), found.job.description)
    print_listing(table)


@job.command(help=_CHECK_HELP)
@click.argument("names", nargs=-1, metavar="[NAME|FILE]...")
@_DIRECTORY
@click.option("--offline", is_flag=True, help="Look at the files and variables only.")
@options(*CLIENT)
def check(names: tuple[str, ...], directory: Path, offline: bool, **server: Any) -> int:
    """Check jobs; gives the exit status."""
    from flight_server.cli.job_file import JobError, find_job  # noqa: PLC0415

    wanted = names or tuple(str(path) for path in sorted(directory.glob("*.toml")))
    if not wanted:
        raise click.UsageError(f"there is no job in {directory}")
    wrong = 0
    with nullcontext() if offline else connected(**server) as client:
        for name in wanted:
            try:
                file = find_job(name, directory)
            except JobError as error:
                click.echo(str(error))
                wrong += 1
                continue
            problems = _problems(file, client)
            for problem in problems or [f"{file.path}: right, {len(file.job.steps)} steps"]:
                click.echo(problem)
            wrong += bool(problems)
    return 1 if wrong else 0


def _problems(file: JobFile, client: Client | None) -> list[str]:
    from flight_server.cli.job_file import JobError  # noqa: PLC0415

    found: list[str] = []
    for number in range(len(file.job.steps)):
        try:
            step = file.filled(number)
        except JobError as error:
            found.append(error.message)
            continue
        if step.upload is not None and step.when_empty == "fail" and not file.files(step):
            found.append(f"{file.at(number)}: upload: there is no such file")
        if client is not None:
            found += [f"{file.at(number)}: {problem}" for problem in _asked(client, step)]
    return found


def _asked(client: Client, step: Step) -> list[str]:
    """What the server says is wrong with a step."""
    from lakehouse_client import LakehouseClientError  # noqa: PLC0415

    from flight_server.cli.job_run import request_of  # noqa: PLC0415

    try:
        if step.action is None:
            request = {"file": step.upload, **step.table, **step.with_}
            checked = client.call("actions.check", {"action": "ingest.upload", "request": request})
            if not checked["problems"]:
                client.call("ingest.upload", request)
        else:
            checked = client.call("actions.check", {"action": step.action, "request": request_of(step)})
    except LakehouseClientError as error:
        # That it is there may come from the job itself, which then has nothing to do.
        return [] if error.code == "TABLE_ALREADY_EXISTS" else [str(error)]
    return [f"with.{problem}" for problem in checked["problems"]]
