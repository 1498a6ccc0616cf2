"""Manifests of tables alike are read without understanding their schema again, others by their own."""

from __future__ import annotations

from faults.mortal import Lake

from lakehouse.catalog import avro_schemas


def test_a_schema_is_understood_once_and_every_table_is_read_by_its_own(tmp_path, monkeypatch):
    first = Lake(tmp_path / "lake")
    for name in ("a", "b"):
        first.run(f"create table {name} as select range as k, 'p' || range % 3 as p from range(6)")
    first.run("create table c (k bigint, p varchar) partitioned by (p)")
    first.run("insert into c select * from a")
    first.run("create table d (k bigint, p integer) partitioned by (p)")
    first.run("insert into d select k, k % 2 from a")
    first.close()
    understood = []
    real = avro_schemas.resolve_reader
    monkeypatch.setattr(
        avro_schemas, "resolve_reader", lambda *schemas: understood.append(schemas) or real(*schemas)
    )
    monkeypatch.setattr(avro_schemas.avro_file, "resolve_reader", avro_schemas.Readers().resolve)
    lake = Lake(tmp_path / "lake")
    try:
        assert lake.rows("select sum(k) as s from a") == [{"s": 15}]
        before = len(understood)
        assert lake.rows("select sum(k) as s from b") == [{"s": 15}]
        assert len(understood) == before
        assert lake.rows("select p, sum(k) as s from c where p <> 'p1' group by p order by p") == [
            {"p": "p0", "s": 3},
            {"p": "p2", "s": 7},
        ]
        assert lake.rows("select p, sum(k) as s from d group by p order by p") == [
            {"p": 0, "s": 6},
            {"p": 1, "s": 9},
        ]
        assert before < len(understood) <= before + 2
    finally:
        lake.close()
