"""The lakehouse domain: tables in object storage, queried with SQL. Knows nothing of Flight or gRPC."""
