"""The long descriptions of Debian's packages: ``python -m benchmarks.corpus`` fetches them, once.

They are read by ``apt-get`` from wherever the machine gets its packages, into lists of their own below
``build/corpus``; nothing is installed, and the lists of the machine stay as they are.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

DIRECTORY = Path(__file__).parent.parent / "build" / "corpus"
_FILE = DIRECTORY / "debian.parquet"
_HEAD = re.compile(r"^(Package|Description-en): *(.*)$")
_HELPER = "/usr/lib/apt/apt-helper"


def descriptions() -> pa.Table:
    """Names of packages, each once, with their descriptions: ``package`` and ``text``.

    Raises:
        RuntimeError: There is no apt here, or it cannot reach its packages.
    """
    if not _FILE.exists():
        lists = DIRECTORY / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={DIRECTORY}/cache"]
        try:
            subprocess.run(
                [*command, "-o", "Acquire::Languages=en", "update"], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError("the descriptions of Debian's packages could not be fetched") from error
        found: dict[str, str] = {}
        for file in sorted(lists.glob("*_i18n_Translation-en*")):
            found |= {name: text for name, text in _entries(_content(file)) if name not in found}
        if not found:
            raise RuntimeError("there is no list of descriptions among those that apt-get fetched")
        pq.write_table(pa.table({"package": list(found), "text": list(found.values())}), _FILE)
    return pq.read_table(_FILE)


def _content(file: Path) -> str:
    """What is in a list, however apt has packed it."""
    return subprocess.run([_HELPER, "cat-file", file], check=True, capture_output=True).stdout.decode()


def _entries(content: str) -> Iterator[tuple[str, str]]:
    """Packages with their description: the short one, an empty line, the long one."""
    for entry in content.split("\n\n"):
        package, lines = "", []
        is_text = False
        for line in entry.split("\n"):
            head = _HEAD.match(line)
            if head is not None:
                is_text = head[1] == "Description-en"
                if is_text:
                    lines = [head[2], ""]
                else:
                    package = head[2]
            elif not line.startswith(" "):
                is_text = False
            elif is_text:
                lines.append("" if line.strip() == "." else line.strip())
        if package and len(lines) > 2:
            yield package, "\n".join(lines)


def main() -> None:
    """Fetch them."""
    print(f"{len(descriptions()):,} descriptions in {_FILE}")


if __name__ == "__main__":
    main()
