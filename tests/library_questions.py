"""A small real corpus: docstrings of Python's own library, and questions that some of them answer."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LEAST_CHARACTERS = 40
MODULES = """
    base64 bisect calendar contextlib copy difflib email/utils fnmatch functools getpass glob hashlib
    heapq html/__init__ html/parser linecache mimetypes pprint queue random shlex shutil socket
    statistics string subprocess tempfile textwrap threading timeit tokenize urllib/parse urllib/request
    uuid webbrowser
""".split()

# Each with the name whose docstring answers it. They were written before any search was made.
QUESTIONS = {
    "how to make a copy of a nested object so that changes do not affect the original": "copy",
    "remove leading whitespace that all lines have in common": "textwrap.dedent",
    "delete a directory and everything in it": "shutil.rmtree",
    "find the position to insert into a sorted list": "bisect.bisect_left",
    "remember the results of a function so that it is not computed again": "functools.lru_cache",
    "compare two files line by line and show what differs": "difflib.unified_diff",
    "open a web page in the user's browser": "webbrowser",
    "read a password without showing it on the screen": "getpass.unix_getpass",
    "the median of some numbers": "statistics.median",
    "all ways to choose some elements of a list": "random.Random.sample",
    "run a command and capture what it prints": "subprocess.run",
    "break a long string into lines of a given width": "textwrap.wrap",
    "escape special characters of HTML": "html.escape",
    "hash of a file's content": "hashlib.file_digest",
    "split a shell command line into arguments": "shlex.split",
    "is a year a leap year": "calendar.isleap",
    "base85 encoding as in Git binary diffs": "base64.b85encode",
    "NamedTemporaryFile deleted when closed": "tempfile.NamedTemporaryFile",
    "wait until all threads have reached the same point": "threading.Barrier",
    "parse a query string into a dictionary": "urllib.parse.parse_qs",
    "guess the type of a file by its name": "mimetypes.guess_type",
    "ignore some exceptions in a block of code": "contextlib.suppress",
    "pretty print nested data": "pprint.pprint",
    "first day of the week of a calendar month as matrix": "calendar.Calendar.monthdayscalendar",
    "look for lines of a file at random without reading all of it": "linecache",
    "covariance of two inputs": "statistics.covariance",
    "a queue that gives the smallest item first": "queue.PriorityQueue",
    "turn an email address with a display name into its parts": "email.utils.parseaddr",
    "matching file names with wildcards like *.txt in a list": "fnmatch.filter",
    "RFC 2822 date of an e-mail header": "email.utils.formatdate",
    "send a file over a socket with sendfile": "socket.socket.sendfile",
    "time how long small bits of code take": "timeit",
    "undo percent-encoding with %xx escapes in a URL": "urllib.parse.unquote",
}


@cache
def docstrings() -> tuple[dict[str, str], ...]:
    """Rows of ``name``, ``module`` and ``doc``: of modules, and of what is public in them."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, dict[str, str]] = {}
    for path in MODULES:
        module = path.removesuffix("/__init__").replace("/", ".")
        tree = ast.parse((library / f"{path}.py").read_text("utf-8"))
        for name, text in _documented(tree, module):
            found.setdefault(name, {"name": name, "module": module, "doc": text})
    return tuple(found.values())


def _documented(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text and len(text) > LEAST_CHARACTERS:
        yield name, text
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _documented(child, f"{name}.{child.name}")
        elif isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            told = ast.get_docstring(child)
            if told and len(told) > LEAST_CHARACTERS:
                yield f"{name}.{child.name}", told
