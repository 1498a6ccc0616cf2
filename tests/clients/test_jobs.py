"""Job files: what they may say, and that doing them again, at once or after a kill brings nothing twice."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Server, start_server
from lakehouse_client import connect
from test_cli import COMMAND, environment, lakehouse

from flight_server.cli.job_file import JobError, JobFile

CONFIG = '[auth]\nanonymous_role = "admin"'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("jobs"), CONFIG)
    yield running
    assert running.stop() == 0


def written(directory: Path, text: str, name: str = "it") -> Path:
    path = directory / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def job(steps: str) -> str:
    return f'description = "what it is for"\n{steps}'


def value(server: Server, sql: str) -> str:
    done = lakehouse("sql", sql, "--format", "csv", server=server)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[1]


def told(done: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads(done.stdout)["steps"]
    return steps


# -- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("description = ", "Invalid value"),
        ('steps = "x"', "description: Field required"),
        (job(""), "steps: Field required"),
        (job("steps = []"), "steps: Tuple should have at least 1 item"),
        (job("[[steps]]\nname = 'a'"), "step 1 (a): Value error, exactly one of action and upload"),
        (job("[[steps]]\nupload = 'a.csv'"), "step 1 (a.csv): Value error, into is missing"),
        (
            job("[[steps]]\naction = 'x'\n[[steps]]\naction = 'y'\non_failure = 'retry'"),
            "step 2 (y): on_failure: Input should be 'stop' or 'continue'",
        ),
        (job("[[steps]]\naction = 'x'\nwhit = {}"), "step 1 (x): whit: Extra inputs are not permitted"),
        (job("[[steps]]\naction = 'x'\nwith = 5"), "step 1 (x): with: Input should be a valid dictionary"),
        (job("[[steps]]\nupload = 'x'\ninto = 'a..b'"), "step 1 (x): into: String should match"),
        (
            job("[[steps]]\naction = 'x'\ninto = 'a'\nwith = { table = 'b' }"),
            "step 1 (x): Value error, into and with.table say the same twice",
        ),
        (job("[[steps]]\naction = 'x'\nwhen_empty = 'skip'"), "when_empty is about upload"),
        (
            job("[[steps]]\naction = 'x'\nwith = { dsn = 'postgresql://me:geheim@h/d' }"),
            "step 1 (x): with.dsn: a password stands in the file",
        ),
        (
            job("[[steps]]\naction = 'x'\nwith = { dsn = 'host=h password=geheim' }"),
            "step 1 (x): with.dsn: a password stands in the file",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_step_and_field(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(JobError) as raised:
        JobFile(path)
    assert str(path) in str(raised.value)
    assert says in str(raised.value)
    assert "geheim" not in str(raised.value)


def test_variables_come_from_the_environment(tmp_path: Path) -> None:
    text = job(
        "[[steps]]\nname = 'n'\nupload = '${DIR}/*.csv'\ninto = '${SCHEMA:-crm}.t'\n"
        "with = { key = '$${x} ${DAY}', types = { day = 'DATE(%d/$)' }, null_values = ['${NA:-}'] }\n"
        "[[steps]]\naction = 'x'\nwith = { since = 2026-01-31, n = 5, dsn = 'postgresql://me:${PW}@h/d' }"
    )
    found = JobFile(written(tmp_path, text))
    step = found.filled(0, {"DIR": "in", "DAY": "1"})
    assert (step.upload, step.into) == ("in/*.csv", "crm.t")
    assert step.request == {"key": "${x} 1", "types": {"day": "DATE(%d/$)"}, "null_values": [""]}
    assert found.filled(1, {"PW": "s"}).request == {
        "since": "2026-01-31",
        "n": 5,
        "dsn": "postgresql://me:s@h/d",
    }
    with pytest.raises(JobError) as raised:
        found.filled(0, {})
    assert f"{found.path}: step 1 (n): upload: the variable DIR is not set" in raised.value.message
    assert "with.key: the variable DAY is not set" in raised.value.message
    wrong = JobFile(written(tmp_path, job("[[steps]]\naction = 'x'\nwith = { a = '${1x}' }")))
    with pytest.raises(JobError, match="'\\$\\{1x\\}' is no reference to a variable"):
        wrong.filled(0, {})


# -- against a server -------------------------------------------------------------------------------------


def test_the_shipped_example_runs_again_and_again(server: Server) -> None:
    for state in ("succeeded", "repeated"):
        done = lakehouse("job", "run", str(ROOT / "jobs" / "nyc.toml"), "--json", server=server)
        assert done.returncode == 0, done.stderr
        assert [step["state"] for step in told(done)] == ["succeeded", state, "succeeded"]
    found = "SELECT count(*) FROM nyc.flights f JOIN nyc.holidays h ON f.time_hour::DATE = h.day"
    assert int(value(server, found)) > 5000
    assert value(server, "SELECT count(*) FROM nyc.holidays") == "10"
    for command in (("list",), ("check",)):
        done = lakehouse("job", *command, "--directory", str(ROOT / "jobs"), server=server)
        assert done.returncode == 0
        assert "nyc" in done.stdout


def test_what_fails_stops_a_job_unless_it_says_otherwise(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n1\n")
    text = job(
        "[[steps]]\nname = 'first'\naction = 'ingest.file'\ninto = 'stops.x'\nwith = { key = 'none.csv' }\n"
        "on_failure = '${HOW}'\n"
        "[[steps]]\nname = 'none'\nupload = 'none-*.csv'\ninto = 'stops.x'\nwhen_empty = 'skip'\n"
        "[[steps]]\nname = 'second'\nupload = 'a.csv'\ninto = 'stops.x'\n"
        "[[steps]]\nname = 'third'\nupload = 'missing.csv'\ninto = 'stops.x'\n"
    )
    stops = written(tmp_path, text.replace("${HOW}", "stop"), "stops")
    done = lakehouse("job", "run", str(stops), server=server)
    assert done.returncode == 1
    states = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [("failed" in line, "skipped" in line) for line in states] == [
        (True, False),
        (False, True),
        (False, True),
        (False, True),
    ]
    assert "does not exist" in done.stderr
    goes_on = written(tmp_path, text.replace("${HOW}", "continue"), "goes-on")
    done = lakehouse("job", "run", str(goes_on), "--json", server=server)
    assert done.returncode == 1
    steps = told(done)
    assert [step["state"] for step in steps] == ["failed", "nothing", "succeeded", "failed"]
    assert steps[2]["rows_stored"] == 1
    assert "there is no file missing.csv" in steps[3]["message"]


def test_a_check_asks_the_server_and_does_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n1\n")
    text = job(
        "[[steps]]\naction = 'ingest.file'\ninto = 'checked.t'\n"
        "with = { prefix = 'in/', mode = 'sideways' }\n"
        "[[steps]]\naction = 'ingest.nothing'\n"
        "[[steps]]\nupload = 'a.csv'\ninto = 'checked.t'\nwith = { types = { id = 'MONEY' } }\n"
        "[[steps]]\nupload = 'a.csv'\ninto = 'checked.t'\nwith = { modus = 'append' }\n"
        "[[steps]]\nupload = 'b.csv'\ninto = '${NOT_SET_HERE}.t'\n"
        "[[steps]]\nupload = 'a.csv'\ninto = 'checked.t'\n"
    )
    path = written(tmp_path, text)
    done = lakehouse("job", "check", str(path), server=server)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    expected = (
        "step 1 (ingest.file): with.mode: Input should be",
        "step 2 (ingest.nothing): [UNKNOWN_ACTION]",
        "step 3 (a.csv): [INVALID_REQUEST] column 'id' cannot have the type 'MONEY'",
        "step 4 (a.csv): with.modus: Extra inputs",
        "step 5 (b.csv): into: the variable NOT_SET_HERE is not set",
    )
    assert len(lines) == len(expected)
    for line, text in zip(lines, expected, strict=True):
        assert f"{path}: {text}" in line
    assert lakehouse("sql", "FROM checked.t", server=server).returncode == 1
    assert lakehouse("job", "run", str(path), server=server).stderr.startswith("error: [JOB_INVALID]")
    offline = lakehouse("job", "check", str(path), "--offline")
    assert offline.stdout.splitlines() == [lines[4]]


# -- again, at once, killed -------------------------------------------------------------------------------

ROWS = 100_000


def heavy(server: Server, directory: Path, schema: str, copies: Sequence[str] = ("copy",)) -> list[str]:
    """A job that takes a while: a table of what is sent, and so many of what is there; gives its command."""
    steps = ["[[steps]]\nupload = 'big-*.csv'\ninto = '${SCHEMA}.big'\n"]
    for table in copies:
        steps.append(f"[[steps]]\naction = 'ingest.file'\ninto = '${{SCHEMA}}.{table}'\n")
        steps.append("with = { prefix = 'in/${SCHEMA}/' }\n")
    inside = server.directory / "bucket" / "in" / schema
    inside.mkdir(parents=True)
    for number in range(2):
        rows = range(number * ROWS, (number + 1) * ROWS)
        content = "id,name\n" + "".join(f"{n},name {n}\n" for n in rows)
        (directory / f"big-{number}.csv").write_text(content)
        (inside / f"{number}.csv").write_text(content)
    path = written(directory, job("".join(steps)))
    return [*COMMAND, "job", "run", str(path), "--json", "--uri", server.uri]


def started(command: list[str], schema: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(SCHEMA=schema),
    )


def assert_once(server: Server, schema: str) -> None:
    for table in ("big", "copy"):
        found = value(server, f"SELECT count(*) || ' ' || count(DISTINCT id) FROM {schema}.{table}")
        assert found == f"{2 * ROWS} {2 * ROWS}"


def test_twins_at_the_same_time_bring_everything_once(server: Server, tmp_path: Path) -> None:
    command = heavy(server, tmp_path, "twins")
    twins = [started(command, "twins") for _ in range(2)]
    for twin in twins:
        out, err = twin.communicate(timeout=250)
        assert twin.returncode == 0, err
        assert {step["state"] for step in json.loads(out)["steps"]} <= {"succeeded", "repeated"}
    assert_once(server, "twins")


def await_run(server: Server, process: subprocess.Popen[str], table: str) -> None:
    """Wait until rows are on their way into a table."""
    with connect(server.uri) as lake:
        while process.poll() is None:
            runs = lake.actions.ingest.list(table=table, state="running").runs
            if any(run.rows_in for run in runs):
                return
            time.sleep(0.01)


def test_a_job_that_was_killed_is_done_again_without_a_trace(server: Server, tmp_path: Path) -> None:
    # Where it is killed for the last time there is as much again to do.
    command = heavy(server, tmp_path, "killed", ("copy", "later"))
    for table in ("big", "big", "copy"):
        process = started(command, "killed")
        await_run(server, process, f"lake.killed.{table}")
        process.kill()
        process.communicate()
        assert process.returncode == -9
    out, err = (last := started(command, "killed")).communicate(timeout=250)
    assert last.returncode == 0, err
    assert json.loads(out)["state"] == "succeeded"
    assert_once(server, "killed")


def test_a_server_that_was_killed_leaves_nothing_half_done(tmp_path: Path) -> None:
    running = start_server(tmp_path / "server", CONFIG)
    command = heavy(running, tmp_path, "gone")
    process = started(command, "gone")
    await_run(running, process, "lake.gone.big")
    running.kill()
    out, _ = process.communicate(timeout=250)
    assert process.returncode == 1
    assert json.loads(out)["steps"][0]["state"] == "failed"
    again = start_server(tmp_path / "server", CONFIG)
    command[command.index("--uri") + 1] = again.uri
    for states in (["succeeded", "succeeded"], ["repeated", "repeated"]):
        out, err = (last := started(command, "gone")).communicate(timeout=250)
        assert last.returncode == 0, err
        assert [step["state"] for step in json.loads(out)["steps"]] == states
    assert_once(again, "gone")
    assert again.stop() == 0
