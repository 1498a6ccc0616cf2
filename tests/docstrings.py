"""A small real corpus: docstrings of Python's standard library."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from pathlib import Path

_DIRECTORIES = ("", "asyncio", "concurrent/futures", "email", "http", "importlib", "json", "logging")
_DIRECTORIES = (*_DIRECTORIES, "multiprocessing", "unittest", "urllib", "xml/etree")
_LEAST = 30


def docstrings(count: int) -> list[tuple[str, str]]:
    """Names of functions and classes, each once, with their docstrings, each once."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    for directory in _DIRECTORIES:
        for file in sorted((root / directory).glob("*.py")):
            module = file.relative_to(root).with_suffix("").as_posix().replace("/", ".")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(file.read_bytes())
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node) or ""
                    if len(text) >= _LEAST and text not in found:
                        found[text] = f"{module}.{node.name}:{node.lineno}"
            if len(found) >= count:
                return [(name, text) for text, name in list(found.items())[:count]]
    raise AssertionError(f"{len(found)} docstrings")
