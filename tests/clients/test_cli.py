"""The command ``lakehouse``, run as a program."""

from __future__ import annotations

import base64
import csv
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from rich.console import Console

from flight_server.cli import run
from flight_server.output.table import print_table
from flight_server.output.text import as_json, as_text

if TYPE_CHECKING:
    from conftest import Server

COMMAND = [sys.executable, "-m", "flight_server"]

# One row of every type that is easily written wrong, then one of NULLs.
TRICKY = """
SELECT * FROM (VALUES
  (1, 'a,b"c\nd', 'NaN'::DOUBLE, 12345678901234567890.123456789::DECIMAL(38, 9),
   TIMESTAMP '2020-01-02 03:04:05.678901', TIMESTAMPTZ '2020-01-02 03:04:05+00', DATE '2020-01-02',
   TIME '01:02:03', '\\xFF\\x00'::BLOB, [1, NULL], {'a': 1.5::DECIMAL(3, 1), 'b': 'x"y'}, MAP {'k': 1},
   INTERVAL '1 month 2 days 3.5 seconds', TIMESTAMP_NS '2020-01-01 00:00:00.123456789', 'infinity'::TIMESTAMP,
   170141183460469231731687303715884105727::HUGEINT, true),
  (NULL, '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
) t(i, s, d, dec, ts, tz, da, ti, bl, li, st, ma, iv, ns, inf, hu, b)
"""
TRICKY_JSON = {
    "i": 1,
    "s": 'a,b"c\nd',
    "d": "NaN",
    "dec": "12345678901234567890.123456789",
    "ts": "2020-01-02T03:04:05.678901",
    "tz": "2020-01-02T03:04:05.000000Z",
    "da": "2020-01-02",
    "ti": "01:02:03.000000",
    "bl": base64.b64encode(b"\xff\x00").decode(),
    "li": [1, None],
    "st": {"a": "1.5", "b": 'x"y'},
    "ma": {"k": 1},
    "iv": "P1M2DT3.5S",
    "ns": "2020-01-01T00:00:00.123456789",
    "inf": "infinity",
    "hu": "170141183460469231731687303715884105727",
    "b": True,
}


@dataclass
class Done:
    """What became of a command."""

    returncode: int
    stdout: str
    stderr: str
    raw: bytes = b""


def lakehouse(*arguments: str, server: Server | None = None, stdin: str = "") -> Done:
    """Run a client command in this process, against a server or none."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    uri = server.uri if server is not None else "grpc://127.0.0.1:1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKEHOUSE_URI", uri)
        for name, stream in (("stdout", out), ("stderr", err), ("stdin", io.StringIO(stdin))):
            patch.setattr(sys, name, stream)
        status = run(list(arguments))
        for stream in (out, err):
            stream.flush()
    raw = out.buffer.getvalue()  # type: ignore[attr-defined]
    return Done(status, raw.decode(errors="replace"), err.buffer.getvalue().decode(), raw)  # type: ignore[attr-defined]


def environment(**more: str) -> dict[str, str]:
    """That of a program, which keeps its bytecode so that the next one starts faster."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "", **more}


def program(*arguments: str, **more: str) -> Done:
    """Run the command as a program of its own."""
    command = [*COMMAND, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment(**more)
    )
    return Done(done.returncode, done.stdout, done.stderr)


def python(text: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program."""
    command = [sys.executable, "-c", text]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment())


def on_terminal(
    *arguments: str, server: Server, columns: int = 80, interrupt_at: Callable[[], bool] | None = None
) -> tuple[int, str]:
    """Run the command on a terminal of that width; gives exit status and what was on the screen."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=ROOT,
        env=environment(LAKEHOUSE_URI=server.uri, TERM="xterm"),
        start_new_session=True,
    )
    os.close(follower)
    screen, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if interrupt_at is not None and interrupt_at():
            process.send_signal(signal.SIGINT)
            interrupt_at = None
        if not select.select([leader], [], [], 0.1)[0]:
            continue
        try:
            screen += os.read(leader, 65_536)
        except OSError:  # the other side is closed
            break
    os.close(leader)
    return process.wait(timeout=60), screen.decode()


def bare(screen: str) -> str:
    """The text without what colours it and moves the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).replace("\r", "")


# -- formats --------------------------------------------------------------------------------------------


def test_json_is_exact(server: Server) -> None:
    done = lakehouse("sql", "-", "--format", "json", server=server, stdin=TRICKY)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first == TRICKY_JSON
    assert second == {name: ("" if name == "s" else None) for name in TRICKY_JSON}


def test_csv_is_exact_and_tells_null_from_empty(server: Server) -> None:
    done = lakehouse("sql", "-", "--format", "csv", server=server, stdin=TRICKY)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == ',""' + "," * 15
    header, row, _ = list(csv.reader(io.StringIO(done.stdout)))
    read = dict(zip(header, row, strict=True))
    nested = {"li", "st", "ma"}
    assert {name: json.loads(read[name]) for name in nested} == {name: TRICKY_JSON[name] for name in nested}
    spaced = {"ts", "tz", "ns"}
    assert {name: read[name].replace(" ", "T") for name in spaced} == {n: TRICKY_JSON[n] for n in spaced}
    others = set(read) - nested - spaced - {"i", "b"}
    assert {name: read[name] for name in others} == {name: TRICKY_JSON[name] for name in others}
    assert (read["i"], read["b"]) == ("1", "true")


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_binary_formats_hold_the_same_rows(server: Server, tmp_path: Path, form: str) -> None:
    query = "SELECT * FROM nyc.weather ORDER BY origin, time_hour"
    file = tmp_path / f"weather.{form}"
    written = lakehouse("sql", query, "--format", form, "--output", str(file), server=server)
    piped = lakehouse("sql", query, "--format", form, server=server)
    assert (written.returncode, written.stdout, written.stderr, piped.returncode) == (0, "", "", 0)
    if form == "parquet":
        tables = [pq.read_table(file), pq.read_table(pa.BufferReader(piped.raw))]
    else:
        tables = [pa.ipc.open_stream(source).read_all() for source in (file.read_bytes(), piped.raw)]
    assert tables[0].num_rows == 26_115
    assert tables[0].equals(tables[1])
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("form", ["csv", "json", "parquet", "arrow", "table"])
def test_a_file_appears_only_when_it_is_complete(server: Server, tmp_path: Path, form: str) -> None:
    query = "SELECT if(range > 2_000_000, error('late'), range) AS n FROM range(3_000_000)"
    file = tmp_path / "rows"
    file.write_text("earlier")
    done = lakehouse("sql", query, "--format", form, "-o", str(file), server=server)
    assert (done.returncode, done.stderr) == (1, "error: [SQL_FAILED] late\n")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("rows", "earlier")]


def test_results_of_no_rows(server: Server, tmp_path: Path) -> None:
    query = "SELECT carrier, name FROM nyc.airlines WHERE false"
    assert lakehouse("sql", query, "--format", "csv", server=server).stdout == "carrier,name\n"
    assert lakehouse("sql", query, "--format", "json", server=server).stdout == ""
    file = tmp_path / "none.parquet"
    lakehouse("sql", query, "--format", "parquet", "-o", str(file), server=server)
    assert pq.read_table(file).schema.names == ["carrier", "name"]


@pytest.mark.parametrize("form", ["csv", "json", "parquet", "arrow"])
def test_streaming_formats_do_not_hold_the_result(server: Server, form: str) -> None:
    """The larger result is 210 MB more than the smaller one."""
    query = "SELECT range AS n, repeat('x', 700) AS t FROM range(100_000)"
    text = f"""
import resource, sys
from flight_server.cli import run
status = run(["sql", {query!r}, "--format", {form!r}, "-o", "/dev/null", "--uri", {server.uri!r}])
print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    more = text.replace("100_000", "400_000")
    usage = []
    for each in (text, more):
        done = python(each)
        status, megabytes = map(int, done.stdout.split())
        assert status == 0, done.stderr
        usage.append(megabytes)
    assert usage[1] - usage[0] < 100


# -- tables ---------------------------------------------------------------------------------------------


def test_a_table_has_types_in_its_head_and_marks_null(server: Server) -> None:
    query = "SELECT 5 AS n, 'x' AS t, NULL::VARCHAR AS nothing, 1.50::DECIMAL(5, 2) AS price"
    done = lakehouse("sql", query, server=server)
    assert done.stdout.splitlines() == [
        "    n   t        nothing              price",
        "int32   string   string    decimal128(5, 2)",
        "───────────────────────────────────────────",
        "    5   x        NULL                  1.50",
    ]
    assert re.fullmatch(r"1 row in \d+\.\d{3} s\n", done.stderr)


def test_a_table_says_what_it_leaves_out(server: Server) -> None:
    done = lakehouse("sql", "SELECT carrier FROM nyc.flights", "--max-rows", "5", server=server)
    assert len(done.stdout.splitlines()) == 3 + 5
    assert re.match(r"336,776 rows, 5 shown \(--max-rows 0 shows all\) in ", done.stderr)
    done = lakehouse("sql", "FROM range(300)", "--max-rows", "0", server=server)
    assert len(done.stdout.splitlines()) == 3 + 300
    assert done.stderr.startswith("300 rows in ")


def test_counting_what_is_not_shown_takes_no_more_than_a_while(server: Server) -> None:
    done = lakehouse("sql", "SELECT a.range FROM range(100_000_000_000) a", "--max-rows", "1", server=server)
    assert done.returncode == 0
    assert re.match(r"more than [\d,]+ rows, 1 shown", done.stderr)


def test_a_pipe_gets_every_column_uncut(server: Server) -> None:
    done = lakehouse("sql", "SELECT *, repeat('long ', 100) AS text FROM nyc.flights LIMIT 1", server=server)
    lines = done.stdout.splitlines()
    assert "time_hour" in lines[0]
    assert "long " * 99 in lines[3]


def test_a_terminal_gets_the_columns_that_fit(server: Server) -> None:
    status, screen = on_terminal("sql", "SELECT * FROM nyc.flights LIMIT 2", server=server, columns=80)
    text = bare(screen)
    assert status == 0
    assert max(len(line) for line in text.splitlines()) <= 80
    assert re.search(r"2 rows, \d+ of 19 columns fit \(--format csv has them all\)", text)
    assert "dep_delay" in text


def test_data_cannot_steer_the_terminal(server: Server) -> None:
    query = "SELECT chr(27) || '[2J' || chr(10) || chr(7) AS evil, '[bold]x[/bold]' AS markup"
    _, screen = on_terminal("sql", query, server=server)
    assert "\x1b[2J" not in screen
    assert "\x07" not in screen
    assert r"\x1b[2J\n\x07" in bare(screen)
    assert "[bold]x[/bold]" in bare(screen)


# -- how it behaves -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["sql", "SELEC 1"], 1, r"error: \[SQL_SYNTAX\] .*\n"),
        (["sql", "SELECT * FROM nyc.nowhere"], 1, r"error: \[TABLE_NOT_FOUND\] .*\n"),
        (["sql", "SELECT 1", "--schema", "nowhere"], 1, r"error: \[SCHEMA_NOT_FOUND\] .*\n"),
        (["action", "no.such"], 1, r"error: \[UNKNOWN_ACTION\] .*\n"),
        (["action", "samples.load", '{"nam": 1}'], 1, r"error: \[INVALID_REQUEST\] samples\.load: nam: .*\n"),
        (
            ["sql", "SELECT 1", "--format", "csv", "-o", "/nowhere/x"],
            1,
            r"error: \[FAILED\] /nowhere/x: No such .*\n",
        ),
        (
            ["sql", "SELECT INTERVAL 1 DAY AS i", "--format", "parquet"],
            1,
            r"error: \[FAILED\] .*interval.*\n",
        ),
        (
            ["sql", "SELECT 1", "--uri", "grpc://127.0.0.1:1"],
            1,
            r"error: \[UNREACHABLE\] grpc://127\.0\.0\.1:1: .*\n",
        ),
        (["sql", ""], 2, r"(?s)Usage: .*the statement is empty\n"),
        (["sql", "SELECT 1", "--uri", "nonsense"], 2, r"(?s)Usage: .*--uri: expected grpc://host:port.*"),
        (["sql", "SELECT 1", "--max-rows", "-1"], 2, r"(?s)Usage: .*--max-rows.*"),
        (["sql", "SELECT 1", "--format", "xml"], 2, r"(?s)Usage: .*--format.*"),
        (["action", "server.status", "{"], 2, r"(?s)Usage: .*JSON: not JSON.*"),
        (["action", "server.status", "[]"], 2, r"(?s)Usage: .*expected a JSON object\n"),
        (["nonsense"], 2, r"(?s)Usage: .*No such command.*"),
        (["serve", "--port", "70000"], 2, r"(?s)Usage: .*--port.*"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_and_an_exit_status(
    server: Server, arguments: list[str], status: int, says: str
) -> None:
    done = lakehouse(*arguments, server=server)
    assert done.returncode == status
    assert re.fullmatch(says, done.stderr), done.stderr
    assert done.stdout == "" or "parquet" in arguments


def test_binary_is_not_written_to_a_terminal(server: Server) -> None:
    status, screen = on_terminal("sql", "SELECT 1", "--format", "arrow", server=server)
    assert status == 2
    assert "arrow is binary: name a file with --output, or redirect it" in bare(screen)


@pytest.mark.parametrize("form", ["table", "csv", "json", "arrow"])
def test_a_reader_that_leaves_is_no_error(server: Server, form: str) -> None:
    query = "SELECT * FROM nyc.flights"
    command = [*COMMAND, "sql", query, "--format", form, "--max-rows", "0", "--uri", server.uri]
    if form == "table":
        command[4] = "FROM range(20000)"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        complaints = process.stderr.read().decode()
        assert process.wait(timeout=60) == 0
    assert "Error" not in complaints
    assert "error" not in complaints


@pytest.mark.parametrize("form", ["table", "csv"])
def test_ctrl_c_ends_a_query_here_and_on_the_server(server: Server, form: str) -> None:
    def running() -> bool:
        return (
            json.loads(lakehouse("action", "server.status", server=server).stdout)["running_statements"] > 0
        )

    query = "SELECT sum(a.range * b.range) FROM range(10_000_000) a, range(1_000_000) b"
    status, screen = on_terminal("sql", query, "--format", form, server=server, interrupt_at=running)
    assert status == 130
    assert "Traceback" not in screen
    assert not running()


def test_progress_is_shown_on_a_terminal_only(server: Server, tmp_path: Path) -> None:
    query = "SELECT a.range AS n FROM range(60_000_000) a"
    arguments = ("sql", query, "--format", "arrow", "-o", str(tmp_path / "rows"))
    status, screen = on_terminal(*arguments, server=server)
    assert status == 0
    assert re.search(r"[\d,]+ rows .*━", bare(screen))
    assert re.search(r"60,000,000 rows in [\d.]+ s", bare(screen))
    assert lakehouse(*arguments, server=server).stderr == ""


def test_actions_and_flights_are_listed(server: Server) -> None:
    listed = lakehouse("actions", server=server)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert re.search(r"^samples\.load +write +Load sample data", listed.stdout, re.MULTILINE)
    flights = lakehouse("flights", "nyc.f*", server=server).stdout.splitlines()
    assert len(flights) == 3
    assert re.match(r"lake\.nyc\.flights +336,776 +[\d,]+ +\d+ +year, month, .*time_hour", flights[2])


def test_an_action_prints_its_result_as_json(server: Server) -> None:
    done = lakehouse(
        "action", "catalog.snapshots", '{"table": "airlines", "db_schema": "nyc"}', server=server
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [item["current"] for item in json.loads(done.stdout)["snapshots"]] == [True]


def test_an_action_shows_its_progress_on_a_terminal(fresh_server: Server) -> None:
    status, screen = on_terminal("action", "samples.load", server=fresh_server)
    assert status == 0
    assert "loading nyc.flights" in bare(screen)
    assert '"rows": 336776' in bare(screen)


def test_the_servers_address_may_be_given_either_way(server: Server) -> None:
    done = lakehouse("sql", "SELECT 1 AS a", "--format", "csv", "--uri", server.uri)
    assert done.stdout == "a\n1\n"


def test_client_commands_start_without_the_server() -> None:
    text = (
        "import sys, flight_server.cli; print(sorted(set(sys.modules) & {'duckdb', 'pyiceberg', 'pydantic'}))"
    )
    done = python(text)
    assert done.stdout == "[]\n"


def test_help_is_there_for_every_command() -> None:
    text = lakehouse("--help").stdout
    commands = re.findall(r"^  ([a-z-]+) {2,}\S", text, re.MULTILINE)
    assert {"serve", "demo", "sql", "flights", "action", "actions", "check-config"} <= set(commands)
    for command in commands:
        assert lakehouse(command, "-h").returncode == 0
    assert "LAKEHOUSE_URI" in lakehouse("sql", "-h").stdout


def test_check_config(tmp_path: Path) -> None:
    file = tmp_path / "lakehouse.toml"
    file.write_text("[server]\nport = 5\n")
    right = lakehouse("check-config", "--config", str(file))
    assert (right.returncode, right.stdout) == (0, "the configuration is right\n")
    shown = lakehouse("check-config", "--config", str(file), "--show")
    assert json.loads(shown.stdout)["server"]["port"] == 5
    file.write_text("[server]\nprot = 5\n")
    wrong = lakehouse("check-config", "--config", str(file))
    assert wrong.returncode == 1
    assert re.fullmatch(r"error: \[CONFIG_INVALID\] .*prot.*port.*\n", wrong.stderr)


# -- serve and demo -------------------------------------------------------------------------------------


def config_in(directory: Path, text: str = "") -> str:
    file = directory / "lakehouse.toml"
    file.write_text(f'[[buckets]]\nname = "primary"\nkind = "local"\npath = "{directory}/data"\n\n{text}')
    return str(file)


@pytest.mark.parametrize("level", ["info", "error"])
def test_serve_prints_one_line_with_its_address(tmp_path: Path, level: str) -> None:
    command = [
        *COMMAND,
        "serve",
        "--config",
        config_in(tmp_path, f'[log]\nlevel = "{level}"\n'),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert re.fullmatch(r"grpc://127\.0\.0\.1:\d+", line["uri"])
        assert lakehouse("sql", "SELECT 1 AS a", "--format", "csv", "--uri", line["uri"]).stdout == "a\n1\n"
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(timeout=60) == 0
        assert line["uri"] not in rest


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_a_port_that_is_taken_is_named(tmp_path: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = program(command, "--config", config_in(tmp_path), "--port", str(port))
    assert done.returncode == 1
    assert re.search(rf"error: \[\w+\] port {port} .*in use.*--port", done.stderr)
    assert "Traceback" not in done.stderr
    if command == "demo":
        free = re.search(r"make demo PORT=(\d+), or lakehouse demo --port (\d+)", done.stderr)
        assert free is not None
        assert free[1] == free[2] != str(port)


def test_the_demo_loads_once_answers_and_stops(tmp_path: Path) -> None:
    arguments = ("demo", "--config", config_in(tmp_path), "--port", "0")
    first = program(*arguments, DEMO_EXIT="1")
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    for text in (
        "Loaded the sample data: 367,687 rows in 5 tables of schema nyc",
        " 336776         16       1458     3322     26115",
        "JOIN nyc.airports",
        "Los Angeles Intl",
        "jdbc:arrow-flight-sql://127.0.0.1:",
        "?useEncryption=false",
        "lakehouse_client.connect(",
        ".venv/bin/lakehouse sql --uri grpc://127.0.0.1:",
    ):
        assert text in first.stdout
    assert len(re.findall(r"^\d rows? in [\d.]+ ms$", first.stdout, re.MULTILINE)) >= 5
    second = program(*arguments, "--exit")
    assert second.returncode == 0
    assert "The sample data is there from an earlier start: 367,687 rows" in second.stdout
    assert "Loaded" not in second.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_serves_until_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    command = [*COMMAND, "demo", "--config", config_in(tmp_path), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    ) as process:
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if "Serving until Ctrl-C" in line:
                break
        uri = re.search(r"grpc://127\.0\.0\.1:\d+", seen)
        assert uri is not None
        counted = lakehouse(
            "sql", "SELECT count(*) AS n FROM nyc.airlines", "--format", "csv", "--uri", uri[0]
        )
        assert counted.stdout == "n\n16\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert "Traceback" not in out


def test_the_demo_can_be_stopped_while_it_loads(tmp_path: Path) -> None:
    command = [*COMMAND, "demo", "--config", config_in(tmp_path), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    ) as process:
        assert process.stdout is not None
        while "Loading the sample data" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert "Connect" not in out


# -- values as text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text", "as_json_text"),
    [
        (pa.array([1, None], pa.int8()), ["1", None], ["1", "null"]),
        (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)], [str(2**64 - 1)]),
        (pa.array([1.0, 0.1, -0.0, 5e-324, 1e20]), ["1.0", "0.1", "-0.0", "5e-324", "1e+20"], None),
        (pa.array([0.1], pa.float32()), ["0.1"], ["0.1"]),
        (pa.array([float("inf"), -float("inf"), float("nan")]), ["Infinity", "-Infinity", "NaN"], None),
        (
            pa.array([0], pa.timestamp("s", "Europe/Berlin")),
            ["1970-01-01 01:00:00+01:00"],
            ['"1970-01-01T01:00:00+01:00"'],
        ),
        (pa.array([1], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001"], None),
        (pa.array([2**63 - 1, -(2**63 - 1)], pa.timestamp("us")), ["infinity", "-infinity"], None),
        (pa.array([2**31 - 1, -735_160], pa.date32()), ["infinity", "-0043-03-15"], None),
        (pa.array([1500], pa.duration("ms")), ["PT1.5S"], ['"PT1.5S"']),
        (pa.array([pa.MonthDayNano([0, 0, 0])]), ["PT0S"], ['"PT0S"']),
        (pa.array([pa.MonthDayNano([-1, 2, -500_000_000])]), ["P-1M2DT-0.5S"], None),
        (pa.array([b"\xff", None]), ["/w==", None], ['"/w=="', "null"]),
        (
            pa.array(["a\x01", 'q"\\', "é\u2028"]),
            ["a\x01", 'q"\\', "é\u2028"],
            ['"a\\u0001"', '"q\\"\\\\"', '"é\u2028"'],
        ),
        (pa.array(["plain", 'q"\\']), None, ['"plain"', '"q\\"\\\\"']),
        (pa.array(["x", None, "x"]).dictionary_encode(), ["x", None, "x"], ['"x"', "null", '"x"']),
        (pa.array([[1], None, []]), ["[1]", None, "[]"], ["[1]", "null", "[]"]),
        (pa.array([[1], None, [2, 3]]).slice(1), [None, "[2,3]"], None),
        (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), ["[1,2]", None], None),
        (pa.array([{"a": 1, 'b"': None}, None]), ['{"a":1,"b\\"":null}', None], None),
        (
            pa.array([[("k", [1])], None, []], pa.map_("string", pa.list_(pa.int8()))),
            ['{"k":[1]}', None, "{}"],
            None,
        ),
        (pa.array([[("a", 1)], [("b", 2)]], pa.map_("string", "int8")).slice(1), ['{"b":2}'], None),
        (pa.array([[(1, "x")]], pa.map_("int8", "string")), ['[[1,"x"]]'], None),
        (pa.nulls(2), [None, None], ["null", "null"]),
        (pa.array([], pa.string()), [], []),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_values_as_text_and_json(
    values: pa.Array, text: list[Any] | None, as_json_text: list[str] | None
) -> None:
    if text is not None:
        assert as_text(values).to_pylist() == text
    found = as_json(values).to_pylist()
    if as_json_text is not None:
        assert found == as_json_text
    for line in found:
        json.loads(line)


def test_small_decimals_are_not_written_with_an_exponent() -> None:
    values = pa.array([Decimal("0.0000000001"), None, Decimal("-12.5000000000")], pa.decimal128(20, 10))
    assert as_text(values).to_pylist() == ["0.0000000001", None, "-12.5000000000"]


def test_a_table_without_columns_that_fit_shows_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    shown = print_table(Console(width=10), pa.table({"a" * 30: [1], "b": [2]}))
    assert shown == 1
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 20
