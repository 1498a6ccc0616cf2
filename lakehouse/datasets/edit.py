"""What somebody says of a dataset, made on top of whatever is known by then, field by field."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime

from lakehouse.catalog.names import fold
from lakehouse.datasets.manifest import ColumnManifest, DatasetManifest, Sensitivity
from lakehouse.datasets.observed import declared_of, together
from lakehouse.errors import InvalidRequest, SchemaMismatch
from lakehouse.journal.change_event import ChangeEvent

_MOST_TAGS = 100
_MOST_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Words:
    """A change of a set of words: all of them anew, or some more and some less."""

    all: tuple[str, ...] | None = None
    more: tuple[str, ...] = ()
    less: tuple[str, ...] = ()

    def on(self, old: Sequence[str], what: str) -> tuple[str, ...]:
        """The words, sorted.

        Raises:
            InvalidRequest: One is empty or too long, or there are too many.
        """
        found = set(old if self.all is None else self.all) | set(self.more)
        found -= set(self.less)
        _check_words(found, what, "tag")
        if len(found) > _MOST_TAGS:
            raise InvalidRequest(f"{what}: at most {_MOST_TAGS} tags, found {len(found)}")
        return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class ColumnEdit:
    """What somebody says of a column; what is None stays.

    Attributes:
        description: What it is.
        tags: Words to find it by.
        declare: Kinds of data that it holds.
        decline: Kinds of data that it does not hold, whatever is found in it.
        forget: Kinds of which nothing is declared any more.
    """

    description: str | None = None
    tags: Words = Words()
    declare: tuple[str, ...] = ()
    decline: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()

    def on(self, old: ColumnManifest, by: str) -> ColumnManifest:
        """The column with what is said of it.

        Raises:
            InvalidRequest: A tag or kind of data cannot be one.
        """
        _check_words((*self.declare, *self.decline), f"column '{old.name}'", "kind of data")
        said = {each.kind: each for each in declared_of(old) if each.kind not in self.forget}
        for kind in self.declare:
            said[kind] = Sensitivity(kind, 1.0, f"declared by {by}" if by else "declared", declared=True)
        for kind in self.decline:
            said[kind] = Sensitivity(kind, 0.0, f"declined by {by}" if by else "declined", declared=True)
        detected = [each for each in old.sensitivity if not each.declared]
        new = replace(
            old,
            description=old.description if self.description is None else self.description,
            tags=self.tags.on(old.tags, f"column '{old.name}'"),
            sensitivity=together(tuple(said[kind] for kind in sorted(said)), detected),
        )
        return replace(new, minimum=None, maximum=None) if self.declare else new


@dataclass(frozen=True, slots=True)
class DatasetEdit:
    """What somebody says of a dataset; what is None stays.

    Attributes:
        owner: Who answers for it.
        description: What it is.
        tags: Words to find it by.
        freshness_seconds: After how long without a change it is late; 0 where nobody says any more.
        columns: What is said of columns, by their names.
    """

    owner: str | None = None
    description: str | None = None
    tags: Words = Words()
    freshness_seconds: int | None = None
    columns: Mapping[str, ColumnEdit] = field(default_factory=dict)

    def on(self, old: DatasetManifest, by: str, now: datetime) -> DatasetManifest:
        """The manifest with what is said of it.

        Raises:
            SchemaMismatch: There is no such column.
            InvalidRequest: A tag cannot be one.
        """
        edits = self.by_column(old)
        freshness = (
            old.freshness_seconds if self.freshness_seconds is None else self.freshness_seconds or None
        )
        new = replace(
            old,
            owner=old.owner if self.owner is None else self.owner,
            description=old.description if self.description is None else self.description,
            tags=self.tags.on(old.tags, f"dataset {old.name}"),
            freshness_seconds=freshness,
            columns=tuple(
                edits[column.name].on(column, by) if column.name in edits else column
                for column in old.columns
            ),
        )
        return old if new == old else replace(new, updated_at=now, updated_by=by)

    def parted(self) -> tuple[DatasetEdit, DatasetEdit]:
        """What it says in descriptions, and all the rest."""
        words = {
            name: ColumnEdit(each.description)
            for name, each in self.columns.items()
            if each.description is not None
        }
        rest = {name: replace(each, description=None) for name, each in self.columns.items()}
        return (
            DatasetEdit(description=self.description, columns=words),
            replace(self, description=None, columns=rest),
        )

    def by_column(self, manifest: DatasetManifest) -> dict[str, ColumnEdit]:
        """What is said of columns, by their names as they are spelled.

        Raises:
            SchemaMismatch: There is no such column.
        """
        spelled = {fold(column.name): column.name for column in manifest.columns}
        for name in self.columns:
            if fold(name) not in spelled:
                near = difflib.get_close_matches(fold(name), spelled, 1)
                hint = f"did you mean '{spelled[near[0]]}'?" if near else ""
                raise SchemaMismatch(f"dataset {manifest.name} has no column '{name}'", hint)
        return {spelled[fold(name)]: edit for name, edit in self.columns.items()}


def _check_words(words: Iterable[str], what: str, kind: str) -> None:
    for word in words:
        if not word.strip() or len(word) > _MOST_CHARACTERS:
            raise InvalidRequest(
                f"{what}: a {kind} has from 1 to {_MOST_CHARACTERS} characters, found {word[:120]!r}"
            )


_TOLD = ("owner", "description", "tags", "freshness_seconds")


def changes_between(old: DatasetManifest, new: DatasetManifest, source: str) -> list[ChangeEvent]:
    """One event for each field that somebody changed."""
    events = [
        _event(new, name, getattr(old, name), getattr(new, name), source)
        for name in _TOLD
        if getattr(old, name) != getattr(new, name)
    ]
    before = {column.name: column for column in old.columns}
    for column in new.columns:
        was = before.get(column.name)
        if was is None:
            continue
        for name in ("description", "tags", "sensitivity"):
            if getattr(was, name) != getattr(column, name):
                place = f"{column.name}.{name}"
                events.append(_event(new, place, getattr(was, name), getattr(column, name), source))
    return events


def _event(manifest: DatasetManifest, place: str, old: object, new: object, source: str) -> ChangeEvent:
    return ChangeEvent(
        "update",
        str(manifest.name),
        manifest.dataset_id,
        place,
        _json(old),
        _json(new),
        snapshot_id=manifest.snapshot_id,
        source=source,
    )


def _json(value: object) -> object:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_json(each) for each in value]
    if isinstance(value, Sensitivity):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return value
