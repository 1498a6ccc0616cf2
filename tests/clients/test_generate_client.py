"""The generator of the client's typed actions and of their documentation."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from conftest import ROOT
from lakehouse_client.messages import decode, encode
from pydantic import Field

from flight_server import generate_client
from flight_server.actions.all import all_actions
from flight_server.actions.registry import ActionSpec, Permission, Progress, Request, Response
from lakehouse.errors import InternalError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(Request):
    """A part, in a request and in a result."""

    weight: float
    name: str = "bolt"


class BuildRequest(Request):
    """What to build."""

    filter: str = Field(description="a parameter that is called like a builtin")
    parts: list[Part] = Field(min_length=1, examples=[[{"weight": 1.5}]])
    since: datetime | None = None
    on: date = date(2020, 1, 1)
    colour: Colour = Colour.RED
    mode: Literal["fast", "exact"] = "fast"
    tags: list[str] = Field(default_factory=lambda: ["new"])
    limits: dict[str, int] = Field(default_factory=dict)
    anything: Any = None
    ratio: float = 0.5
    deep: bool = False


class BuildResponse(Response):
    """What was built."""

    parts: list[Part]
    at: datetime
    note: str | None
    sizes: dict[str, list[int]]


def run(_: Any, __: Any) -> Iterator[Progress | Response]:
    yield Progress(progress=1.0)


def spec(name: str, request: type[Request], response: type[Response], **options: Any) -> ActionSpec:
    return ActionSpec(name, "Build something", request, response, run, Permission.ADMIN, **options)


BUILD = spec("work_shop.import", BuildRequest, BuildResponse, streams=True)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The stubs of one action that uses everything, as a module."""
    file = tmp_path_factory.mktemp("stubs") / "generated_actions.py"
    (file.parent / "__init__.py").touch()
    file.write_text(generate_client._formatted(generate_client.stubs([BUILD])), encoding="utf-8")
    spec_of = importlib.util.spec_from_file_location("generated_actions", file)
    assert spec_of is not None
    assert spec_of.loader is not None
    module = importlib.util.module_from_spec(spec_of)
    sys.modules["generated_actions"] = module
    spec_of.loader.exec_module(module)
    return module


def test_generated_files_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flight_server.generate_client", "--check"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stale_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "actions.py").write_text("earlier")
    monkeypatch.setattr(generate_client, "_ROOT", tmp_path)
    monkeypatch.setattr(generate_client, "_STUBS", tmp_path / "actions.py")
    monkeypatch.setattr(generate_client, "_DOCS", tmp_path / "actions.md")
    monkeypatch.setattr(sys, "argv", ["generate_client", "--check"])
    assert generate_client.main() == 1
    assert (
        "stale: actions.py, actions.md: run python -m flight_server.generate_client"
        in capsys.readouterr().err
    )
    monkeypatch.setattr(sys, "argv", ["generate_client"])
    assert generate_client.main() == 0
    monkeypatch.setattr(sys, "argv", ["generate_client", "--check"])
    assert generate_client.main() == 0


def test_the_text_depends_on_the_actions_alone() -> None:
    specs = tuple(all_actions())
    assert generate_client.stubs(specs) == generate_client.stubs(specs)
    assert generate_client.documentation(specs) == generate_client.documentation(specs)


@pytest.mark.parametrize("tool", [["ruff", "check", "--config", "pyproject.toml"], ["mypy", "--strict"]])
def test_whatever_is_generated_passes_the_checks(generated: ModuleType, tool: list[str]) -> None:
    assert generated.__file__ is not None
    command = [sys.executable, "-m", *tool, generated.__file__]
    environment = {**os.environ, "MYPYPATH": str(ROOT / "clients" / "python")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout


def test_requests_and_results_of_every_type(generated: ModuleType) -> None:
    called: list[Any] = []

    def call(name: str, request: Any, response: Any, on_progress: Any = None) -> Any:
        called.append((name, encode(request), on_progress))
        body = {
            "parts": [{"weight": 2.0, "name": "nut"}],
            "at": "2020-01-02T03:04:05Z",
            "note": None,
            "sizes": {"a": [1]},
        }
        return decode(response, body)

    told = print
    built = generated.Actions(call).work_shop.import_(
        filter="x",
        parts=[generated.Part(1.5), generated.Part(2.0, "nut")],
        since=datetime(2020, 1, 2, tzinfo=UTC),
        colour="blue",
        tags=[],
        limits={"a": 1},
        on_progress=told,
    )
    assert called == [
        (
            "work_shop.import",
            {
                "filter": "x",
                "parts": [{"weight": 1.5}, {"weight": 2.0, "name": "nut"}],
                "since": "2020-01-02T00:00:00+00:00",
                "colour": "blue",
                "tags": [],
                "limits": {"a": 1},
            },
            told,
        )
    ]
    BuildRequest.model_validate(called[0][1])
    assert built.parts == [generated.Part(2.0, "nut")]
    assert built.at == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (built.note, built.sizes) == (None, {"a": [1]})


def test_left_out_fields_mean_the_servers_defaults(generated: ModuleType) -> None:
    request = generated.BuildRequest("x", [generated.Part(1.5)])
    body = encode(request)
    assert body == {"filter": "x", "parts": [{"weight": 1.5}]}
    assert BuildRequest.model_validate(body).tags == ["new"]
    assert request.tags == ("new",)


def test_documentation_has_an_example_that_the_action_takes() -> None:
    text = generate_client.documentation([BUILD])
    assert "Needs the permission `admin`. It streams progress." in text
    assert "| `filter` | `str` | a parameter that is called like a builtin; required |" in text
    assert '| `tags` | `list[str]` | default `["new"]` |' in text
    assert "| `Part` | type | |" in text
    assert (
        """lakehouse action work_shop.import '{"filter": "<filter>", "parts": [{"weight": 1.5}]}'""" in text
    )


def test_two_models_of_one_name_are_refused() -> None:
    other = type("BuildResponse", (Response,), {"__annotations__": {}, "__module__": __name__})
    with pytest.raises(InternalError, match="two models of actions are called BuildResponse"):
        generate_client.stubs([BUILD, spec("work.other", Request, other)])


def test_a_type_without_a_form_in_the_client_is_refused() -> None:
    class Strange(Request):
        value: complex

    with pytest.raises(InternalError, match="the client has no form for <class 'complex'>"):
        generate_client.stubs([spec("work.strange", Strange, BuildResponse)])
