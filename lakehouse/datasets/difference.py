"""In what two manifests of one dataset differ, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from lakehouse.datasets.manifest import ColumnManifest, DatasetManifest, DatasetObject, VectorFacts

_MOST_ITEMS = 20
# What every change of a manifest changes.
_OF_THE_CHANGE = frozenset({"version", "updated_at", "updated_by"})
_OF_COLUMNS = ("type", "nullable", "values", "nulls", "minimum", "maximum", "size_bytes", "description")
# What tells of values of rows.
_BOUNDS = frozenset({"minimum", "maximum"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that differs; ``old`` and ``new`` are as people read them, None where there is nothing."""

    field: str
    old: str | None
    new: str | None


def differences(old: DatasetManifest | None, new: DatasetManifest) -> list[Difference]:
    """In what a manifest differs from the one that was there; of one that was not there, that it was not.

    Args:
        old: The one that was there.
        new: The other one.
    """
    if old is None:
        return [Difference("manifest", None, f"{new.object_count} objects, {new.rows} rows")]
    found: list[Difference] = []
    for field in fields(DatasetManifest):
        was, now = getattr(old, field.name), getattr(new, field.name)
        if field.name in _OF_THE_CHANGE or was == now:
            continue
        if field.name == "columns":
            found += _of_columns(was, now)
        elif field.name == "objects":
            found += _of_objects(was, now)
        elif field.name == "vectors" and was is not None and now is not None:
            found += _of_vectors(was, now)
        else:
            found.append(Difference(field.name, _text(was), _text(now)))
    return found


def _of_columns(old: Sequence[ColumnManifest], new: Sequence[ColumnManifest]) -> Iterator[Difference]:
    before, after = {c.name: c for c in old}, {c.name: c for c in new}
    if [c.name for c in old] != [c.name for c in new]:
        yield Difference("columns", _text([c.name for c in old]), _text([c.name for c in new]))
    for name, column in after.items():
        was = before.get(name)
        if was is None:
            continue
        for part in (*_OF_COLUMNS, "tags", "sensitivity"):
            one, other = getattr(was, part), getattr(column, part)
            if one != other:
                told = part not in _BOUNDS or not any(s.confidence > 0 for s in column.sensitivity)
                place = f"columns.{name}.{part}"
                yield Difference(place, _text(one) if told else None, _text(other) if told else None)


def _of_objects(old: Sequence[DatasetObject], new: Sequence[DatasetObject]) -> Iterator[Difference]:
    before, after = _by_key(old), _by_key(new)
    gone = [key for key in before if key not in after]
    come = [key for key in after if key not in before]
    if gone or come:
        yield Difference("objects", _keys(gone), _keys(come))
    if len(before) != len(old):
        yield Difference("objects", f"{len(old) - len(before)} entries twice", None)
    changed = [key for key, each in after.items() if key in before and before[key] != each]
    for key in changed[:_MOST_ITEMS]:
        was, now = before[key], after[key]
        for part in ("size_bytes", "rows", "e_tag"):
            one, other = getattr(was, part), getattr(now, part)
            if one != other:
                yield Difference(f"objects.{key}.{part}", _text(one), _text(other))
    if len(changed) > _MOST_ITEMS:
        yield Difference("objects", f"{len(changed) - _MOST_ITEMS} others differ as well", None)
    if not (gone or come or changed) and len(before) == len(old):
        yield Difference("objects", "another order", None)


def _of_vectors(old: VectorFacts, new: VectorFacts) -> Iterator[Difference]:
    for field in fields(VectorFacts):
        was, now = getattr(old, field.name), getattr(new, field.name)
        if was != now:
            yield Difference(f"vectors.{field.name}", _text(was), _text(now))


def _by_key(objects: Sequence[DatasetObject]) -> Mapping[str, DatasetObject]:
    return {each.key: each for each in objects}


def _keys(keys: Sequence[str]) -> str | None:
    if not keys:
        return None
    more = f" and {len(keys) - _MOST_ITEMS} more" if len(keys) > _MOST_ITEMS else ""
    return ", ".join(keys[:_MOST_ITEMS]) + more


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return f"[{', '.join(str(each) for each in value)}]"
    return str(value)
