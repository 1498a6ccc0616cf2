"""A sample that told too little: what the caller stated stays, however the table spells the column."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from source_results import never, silent

from lakehouse.ingest.sources.byte_source import LocalFile
from lakehouse.ingest.sources.file_options import FileLimits, FileOptions
from lakehouse.ingest.sources.file_source import FileSource
from lakehouse.ingest.sources.source import Disproved, OnError

SMALL = FileLimits(block_bytes=64, sample_bytes=64)


@pytest.mark.parametrize(
    "content",
    [
        "n,N,v\n" + "1,1,1\n" * 100 + "1,1,x\n",
        '{"n":1,"N":1,"v":1}\n' * 100 + '{"n":1,"N":1,"v":"x"}\n',
    ],
)
def test_stated_types_stay_where_a_sample_is_disproved(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x"
    path.write_text(content)
    source = FileSource([LocalFile(path)], FileOptions(limits=SMALL))
    found = source.inspect(never, silent)
    first, second, value = found.columns
    assert (first.name, second.name, value.type) == ("n", "N_2", pa.int64())
    spelled = replace(second, name="n_2", type=pa.string(), reason="stated by the caller")
    as_in_table = replace(found, columns=(first, spelled, value))
    with pytest.raises(Disproved) as told:
        list(source.read(as_in_table, OnError.FAIL, never, silent))
    truth = told.value.inspection
    assert [(c.name, c.type) for c in truth.columns] == [
        ("n", pa.int64()),
        ("n_2", pa.string()),
        ("v", pa.string()),
    ]
    pieces = source.read(truth, OnError.FAIL, never, silent)
    rows = [row for piece in pieces for row in piece.batch.to_pylist()]
    assert len(rows) == 101
    assert rows[-1] == {"n": 1, "n_2": "1", "v": "x"}
