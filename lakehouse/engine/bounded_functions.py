"""Functions whose result can be as large as a number says, with a bound on it.

DuckDB computes such a value in one piece: neither its memory limit nor an interrupt reaches it, so that
``range(2000000000)`` would take the machine down. Sessions find these macros before the functions of the
same names; the table functions ``range`` and ``generate_series``, which stream, are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_ELEMENTS = 1_000_000
"""Longest list that one call may make."""

MAX_CHARACTERS = 50_000_000
"""Longest text that one call may make."""

_LIST = f"the list would have more than {MAX_ELEMENTS} elements"
_TEXT = f"the text would have more than {MAX_CHARACTERS} characters"


def macros(schema: str) -> Iterator[str]:
    """The statements that create the macros in a schema, given by its quoted full name."""
    for name in ("range", "generate_series"):
        yield _macro(
            schema,
            name,
            ("stop",),
            ("start", "stop"),
            ("start", "stop", "step"),
            sizes=("stop::HUGEINT", "stop::HUGEINT - start::HUGEINT", _STEPS),
        )
    yield _macro(schema, "repeat", ("v", "n"), sizes=("n::HUGEINT * length(v::VARCHAR)",), text=True)
    for name in ("lpad", "rpad"):
        yield _macro(schema, name, ("v", "n", "fill"), sizes=("n",), text=True)
    yield _macro(schema, "bitstring", ("v", "n"), sizes=("n",), text=True)
    for name in ("list_resize", "array_resize"):
        yield _macro(schema, name, ("v", "n"), ("v", "n", "fill"), sizes=("n", "n"))


# Numbers, or else points in time with an interval between them.
_STEPS = (
    "coalesce("
    "(TRY_CAST(stop AS HUGEINT) - TRY_CAST(start AS HUGEINT)) // nullif(TRY_CAST(step AS HUGEINT), 0), "
    "(epoch_us(TRY_CAST(stop AS TIMESTAMP)) - epoch_us(TRY_CAST(start AS TIMESTAMP))) "
    "// nullif(epoch_us(TRY_CAST(step AS INTERVAL)), 0))"
)


def _macro(
    schema: str, name: str, *signatures: tuple[str, ...], sizes: tuple[str, ...], text: bool = False
) -> str:
    bound, message = (MAX_CHARACTERS, _TEXT) if text else (MAX_ELEMENTS, _LIST)
    bodies = []
    for parameters, size in zip(signatures, sizes, strict=True):
        count = "stop" if "stop" in parameters else "n"
        # Around the call it would come too late: the optimiser computes what is constant beforehand.
        guarded = f"CASE WHEN {size} > {bound} THEN error('{message}') ELSE {count} END"
        arguments = ", ".join(guarded if parameter == count else parameter for parameter in parameters)
        bodies.append(f"({', '.join(parameters)}) AS system.main.{name}({arguments})")
    return f"CREATE MACRO {schema}.{name}{', '.join(bodies)}"
