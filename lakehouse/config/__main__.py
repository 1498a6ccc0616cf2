"""Writes the default configuration file, or checks that one is current."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lakehouse.config.document import render


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m lakehouse.config``; the result is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lakehouse.config", description=__doc__)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--toml", action="store_true", help="print the file")
    task.add_argument("--check", metavar="FILE", type=Path, help="compare FILE with what --toml prints")
    options = parser.parse_args(arguments)
    if options.toml:
        sys.stdout.write(render())
        return 0
    return _check(options.check)


def _check(file: Path) -> int:
    wanted = render().splitlines()
    try:
        found = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        sys.stderr.write(f"{file} cannot be read: {error.strerror}\n")
        return 1
    if found == wanted:
        return 0
    pairs = zip([*found, "(end)"], [*wanted, "(end)"], strict=False)
    number, (old, new) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    sys.stderr.write(
        f"{file} line {number} is not current: found {old!r}, expected {new!r}; "
        f"run python -m lakehouse.config --toml > {file}\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
