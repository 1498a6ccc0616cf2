"""Random changes of a table, as SQL that lake tables and DuckDB's own understand alike."""

from __future__ import annotations

TEXTS = ["''", "'ä'", "'a''b'", "NULL", "'x' || k", "'\U0001f98a'"]


class Statements:
    """Random changes of a table ``t (k, g, s, x)``."""

    def __init__(self, rng):
        self.rng = rng
        self.next_key = 0

    def one(self):
        """A statement, and rows of parameters or ``None``."""
        makers = (
            self.insert_values, self.insert_query, self.insert_query, self.insert_by_name, self.insert_many,
            self.update, self.update, self.update_from, self.update_itself, self.update_many, self.delete,
            self.delete_using, self.delete_many, self.merge, self.merge, self.merge_insert,
            self.merge_by_source, self.common,
        )  # fmt: skip
        if self.rng.random() < 0.02:
            return self.rng.choice(["truncate t", "delete from t", "update t set g = 0"]), None
        made = self.rng.choice(makers)()
        sql, rows = made if isinstance(made, tuple) else (made, None)
        if rows is None and self.rng.random() < 0.25:
            sql += " returning " + self.rng.choice(["*", "k", "k + 1 as n, s"])
        return sql, rows

    def keys(self, count):
        first, self.next_key = self.next_key, self.next_key + count
        return first, first + count

    def condition(self, table="t"):
        high = max(self.next_key, 1)
        a = self.rng.randrange(high)
        return self.rng.choice(
            [
                f"{table}.k = {a}",
                f"{table}.k between {a} and {a + self.rng.randrange(40)}",
                f"{table}.g = {self.rng.randrange(5)} and {table}.k % 3 = 1",
                f"{table}.s is null",
                f"{table}.x > {self.rng.random():.3f} and {table}.k < {a}",
                f"{table}.k in (select max(k) from t group by g)",
                "false",
            ]
        )

    def insert_values(self):
        rows = [
            f"({k}, {k % 5}, {self.rng.choice(TEXTS).replace('k', str(k))}, {self.rng.random():.3f})"
            for k in range(*self.keys(self.rng.randrange(1, 4)))
        ]
        return f"insert into t values {', '.join(rows)}"

    def insert_query(self):
        first, last = self.keys(self.rng.randrange(1, 300))
        text = self.rng.choice(TEXTS)
        return (
            f"insert into t (g, k, s, x) select k % 5, k, {text}, k / 7.0 "
            f"from (select range as k from range({first}, {last}))"
        )

    def insert_by_name(self):
        first, last = self.keys(20)
        return f"insert into t by name select 'n' as s, range as k from range({first}, {last})"

    def insert_many(self):
        rows = [
            [k, k % 5, f"p{k}", None if k % 4 else 0.5] for k in range(*self.keys(self.rng.randrange(2, 60)))
        ]
        return "insert into t values (?, ?, 'v' || ?, ?)", rows

    def update(self):
        return f"update t set s = {self.rng.choice(TEXTS)}, x = x + 1 where {self.condition()}"

    def update_from(self):
        return (
            "update t as a set s = 'from ' || q.n, g = q.n from (select range as j, range % 3 as n from "
            f"range({self.next_key})) q where q.j = a.k and {self.condition('a')}"
        )

    def update_itself(self):
        return f"update t set x = (select count(*) from t i where i.g = t.g) where {self.condition()}"

    def update_many(self):
        rows = [
            [f"m{n}", self.rng.randrange(max(self.next_key, 1))] for n in range(self.rng.randrange(2, 30))
        ]
        return "update t set s = ? where k = ?", rows

    def delete(self):
        return f"delete from t where {self.condition()}"

    def delete_using(self):
        return (
            f"delete from t using (select range * 11 as j from range({max(self.next_key // 11, 1)})) q "
            f"where q.j = t.k and {self.condition()}"
        )

    def delete_many(self):
        return "delete from t where k = $1 or k = $2", [
            [self.rng.randrange(max(self.next_key, 1)), -n] for n in range(self.rng.randrange(2, 10))
        ]

    def _source(self):
        first = self.rng.randrange(max(self.next_key, 1))
        last = first + self.rng.randrange(1, 60)
        self.next_key = max(self.next_key, last)
        return f"(select range as k, 'merged' as s from range({first}, {last})) q"

    def merge(self):
        return (
            f"merge into t using {self._source()} on t.k = q.k when matched and t.k % 5 = 0 then delete "
            "when matched then update set s = q.s when not matched then insert (k, s) values (q.k, q.s)"
        )

    def merge_insert(self):
        insert = "when not matched then insert (k, s) values (q.k, q.s)"
        return f"merge into t using {self._source()} using (k) {insert}"

    def merge_by_source(self):
        return (
            f"merge into t using {self._source()} on t.k = q.k when matched then update set x = 1.5 "
            "when not matched by source and t.g = 4 then update set s = 'gone'"
        )

    def common(self):
        return (
            f"with doomed as (select k from t where {self.condition()} limit 1000) "
            "delete from t where k in (select k from doomed where k % 2 = 0)"
        )
