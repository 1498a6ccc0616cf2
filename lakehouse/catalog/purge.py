"""Deleting what a dropped table leaves behind, as far as no table of the catalog refers to it."""

from __future__ import annotations

from collections.abc import Iterator

from pyiceberg.table.metadata import TableMetadata

from lakehouse.catalog.table_store import TableStore
from lakehouse.errors import ObjectNotFound


def purge_table(objects: TableStore, dropped: TableMetadata) -> int:
    """Delete the files of a dropped table that no table refers to; gives how many these were.

    Files are shared when a table was made from the files of another. Data goes before the manifests that
    name it, so that a purge that was interrupted can be begun again.
    """
    own = list(_files(objects, dropped, some_gone=True))
    kept: set[str] = set()
    for namespace in objects.list_namespaces():
        for identifier in objects.list_tables(namespace):
            kept.update(_files(objects, objects.load_table(identifier).metadata))
    count = 0
    for uri in dict.fromkeys(own):
        if uri not in kept:
            count += objects.delete_file(uri)
    return count


def _files(objects: TableStore, metadata: TableMetadata, *, some_gone: bool = False) -> Iterator[str]:
    """Every file that the snapshots of a table refer to, data first."""
    manifests: dict[str, None] = {}
    lists = [snapshot.manifest_list for snapshot in metadata.snapshots if snapshot.manifest_list]
    for snapshot in metadata.snapshots:
        try:
            found = snapshot.manifests(objects.file_io)
        except (ObjectNotFound, FileNotFoundError):
            if not some_gone:
                raise
            continue
        for manifest in found:
            if manifest.manifest_path in manifests:
                continue
            try:
                entries = manifest.fetch_manifest_entry(objects.file_io, discard_deleted=False)
            except (ObjectNotFound, FileNotFoundError):
                if not some_gone:
                    raise
                continue
            manifests[manifest.manifest_path] = None
            yield from (entry.data_file.file_path for entry in entries)
    yield from manifests
    yield from lists
