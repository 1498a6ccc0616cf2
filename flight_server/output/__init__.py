"""Rows for people and programs: a readable table, or CSV, JSON, Parquet and Arrow streams."""

from flight_server.output.table import fitting, print_table
from flight_server.output.writers import BINARY, STREAMED, Head, first_rows, write_rows, write_table

__all__ = ["BINARY", "STREAMED", "Head", "first_rows", "fitting", "print_table", "write_rows", "write_table"]
