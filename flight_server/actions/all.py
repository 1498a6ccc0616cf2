"""Every action of the server: a new family is one line here."""

from __future__ import annotations

from flight_server.actions import (
    admin,
    ai,
    audit,
    auth,
    cache,
    catalog,
    datasets,
    hnsw,
    ingest,
    ingest_postgres,
    ingest_sync,
    ingest_upload,
    journal,
    maintenance,
    objects,
    profiles,
    registration,
    resync,
    samples,
    server,
    storage,
    tables,
    vectors,
    vectors_embed,
    vectors_search,
)
from flight_server.actions.registry import ActionRegistry


def all_actions() -> ActionRegistry:
    """The table of actions that the server offers."""
    specs = (
        *server.ACTIONS,
        *auth.ACTIONS,
        *admin.ACTIONS,
        *audit.ACTIONS,
        *cache.ACTIONS,
        *storage.ACTIONS,
        *objects.ACTIONS,
        *journal.ACTIONS,
        *catalog.ACTIONS,
        *datasets.ACTIONS,
        *registration.ACTIONS,
        *ingest.ACTIONS,
        *ingest_upload.ACTIONS,
        *ingest_postgres.ACTIONS,
        *ingest_sync.ACTIONS,
        *resync.ACTIONS,
        *samples.ACTIONS,
        *ai.ACTIONS,
        *tables.ACTIONS,
        *maintenance.ACTIONS,
        *vectors_embed.ACTIONS,
        *vectors.ACTIONS,
        *vectors_search.ACTIONS,
        *profiles.ACTIONS,
        *hnsw.ACTIONS,
    )
    specs = (*specs, server.check_spec(specs))
    return ActionRegistry((*specs, server.describe_spec(specs)))
