"""Keeping tables in shape: small files put together, old snapshots expired, orphans removed."""
