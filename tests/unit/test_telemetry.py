"""Naming and timing the parts of a call."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from lakehouse import telemetry
from lakehouse.telemetry import UNTRACED, Attribute, span


@dataclass
class Recorded:
    """A span that remembers what became of it."""

    name: str
    attributes: dict[str, Attribute] = field(default_factory=dict)
    children: list[Recorded] = field(default_factory=list)
    ended: list[BaseException | None] = field(default_factory=list)
    trace_id: str = "0" * 32
    span_id: str = "0" * 16

    def child(self, name: str, attributes: Mapping[str, Attribute]) -> Recorded:
        self.children.append(Recorded(name, dict(attributes)))
        return self.children[-1]

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        self.attributes |= attributes

    def end(self, error: BaseException | None = None) -> None:
        self.ended.append(error)


@pytest.fixture
def call() -> Recorded:
    return Recorded("call")


def traced(call: Recorded, function: object) -> object:
    def run() -> object:
        telemetry.make_current(call)
        return function()  # type: ignore[operator]

    return contextvars.copy_context().run(run)


def test_untraced_code_gets_one_shared_object_that_does_nothing() -> None:
    with span("plan", tables=2) as outer, span("bind") as inner:
        inner.set({"rows": 1})
        assert inner.child("deeper", {}) is UNTRACED
    assert outer is inner is UNTRACED
    assert span("plan") is UNTRACED
    assert telemetry.begin("stream") is UNTRACED
    assert telemetry.current() is None


def test_spans_nest_as_the_blocks_do(call: Recorded) -> None:
    def work() -> None:
        with span("plan", kind="query"):
            with span("bind"):
                assert telemetry.current() is call.children[0].children[0]
            with span("schema"):
                pass
        with span("execute"):
            pass
        assert telemetry.current() is call

    traced(call, work)
    assert [part.name for part in call.children] == ["plan", "execute"]
    assert [part.name for part in call.children[0].children] == ["bind", "schema"]
    assert call.children[0].attributes == {"kind": "query"}
    assert all(part.ended == [None] for part in [*call.children, *call.children[0].children])
    assert call.ended == []


def test_a_span_ends_with_the_error_that_leaves_its_block(call: Recorded) -> None:
    failure = ValueError("no")

    def work() -> None:
        with span("plan"):
            raise failure

    with pytest.raises(ValueError, match="no"):
        traced(call, work)
    assert call.children[0].ended == [failure]


@pytest.mark.parametrize("end", [StopIteration(), GeneratorExit()])
def test_the_end_of_an_iteration_is_no_failure(call: Recorded, end: BaseException) -> None:
    def work() -> None:
        with span("stream"):
            raise end

    with pytest.raises(type(end)):
        traced(call, work)
    assert call.children[0].ended == [None]


def test_a_part_that_outlives_its_function_is_ended_by_whoever_has_it(call: Recorded) -> None:
    stream = traced(call, lambda: telemetry.begin("stream", rows=0))
    assert isinstance(stream, Recorded)
    assert stream.ended == []
    stream.end()
    assert call.children == [stream]


def test_other_contexts_do_not_see_the_span(call: Recorded) -> None:
    traced(call, lambda: None)
    assert telemetry.current() is None
    assert contextvars.copy_context().run(telemetry.current) is None


def test_a_generator_that_is_closed_elsewhere_ends_its_span(call: Recorded) -> None:
    def rows() -> Iterator[int]:
        with span("read"):
            yield 1

    generator = rows()
    assert traced(call, lambda: next(generator)) == 1
    generator.close()
    assert call.children[0].ended == [None]
    assert telemetry.current() is None
