"""Tables: the Iceberg catalog that lives in object storage alone, and immutable views of its tables."""
