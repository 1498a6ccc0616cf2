"""The command ``lakehouse``: serve, try out, query any server, and say who gets in.

What serves and what queries is imported by the commands that need it: each is a second of starting up.
"""

from flight_server.cli import access, hnsw, ingest, job, objects, querying, serving
from flight_server.cli.program import cli, main, run
from flight_server.cli.querying import call_with_progress

__all__ = [
    "access",
    "call_with_progress",
    "cli",
    "hnsw",
    "ingest",
    "job",
    "main",
    "objects",
    "querying",
    "run",
    "serving",
]
