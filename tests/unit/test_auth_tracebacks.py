"""What the transport may say of an exception that it raised itself."""

from __future__ import annotations

import traceback

import pytest

from flight_server.middleware.tracebacks import hide_tracebacks


def raised(file: str) -> BaseException:
    code = compile("1 / 0", file, "exec")
    with pytest.raises(ZeroDivisionError) as raised:
        exec(code)
    return raised.value.with_traceback(raised.tb.tb_next)


def formatted(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


@pytest.fixture(autouse=True)
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traceback, "format_exception", traceback.format_exception)
    hide_tracebacks()
    hide_tracebacks()


def test_a_traceback_of_the_transport_is_not_shown():
    assert formatted(raised("pyarrow/_flight.pyx")) == "the request could not be read"


def test_any_other_traceback_is_shown_as_ever():
    error = raised("handler.py")
    assert 'File "handler.py", line 1' in formatted(error)
    assert formatted(error).endswith("ZeroDivisionError: division by zero\n")
    assert "".join(traceback.format_exception(error)) == formatted(error)
    assert "".join(traceback.format_exception(error, limit=0)) == "ZeroDivisionError: division by zero\n"
    assert traceback.format_exception(None, None, None) == ["NoneType: None\n"]
