"""Keeps Python tracebacks of the transport itself from clients.

pyarrow sends a traceback with every exception that is not its own. Handlers and middleware raise none such,
but pyarrow's glue does before either is reached: a header that is not ASCII is enough. The text is made by
``traceback.format_exception``, looked up by name each time, so that is where it can be left out.
"""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any

_GLUE = "_flight.pyx"
_format_exception: Any = traceback.format_exception


def hide_tracebacks() -> None:
    """From now on tracebacks that begin in pyarrow's glue are left out, in this process; others are not.

    Harmless when repeated.
    """
    traceback.format_exception = _format


def _format(exception: Any, /, value: Any = None, tb: Any = None, *rest: Any, **options: Any) -> list[str]:
    if isinstance(tb, TracebackType) and tb.tb_frame.f_code.co_filename.endswith(_GLUE):
        return ["the request could not be read"]
    if value is None and tb is None:
        return list(_format_exception(exception, *rest, **options))
    return list(_format_exception(exception, value, tb, *rest, **options))
