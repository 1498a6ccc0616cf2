"""The wire: Arrow Flight and Flight SQL over gRPC in front of :mod:`lakehouse`."""

__version__ = "0.1.0"
