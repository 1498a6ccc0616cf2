"""How an index is built and compared: metric, algorithm, storage and the parameters of the graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from lakehouse.errors import InvalidRequest


class Metric(StrEnum):
    """How two vectors are compared."""

    COSINE = "cosine"
    """Inner product of the vectors brought to length 1; greater is closer."""
    INNER_PRODUCT = "inner_product"
    """Inner product of the vectors as they are; greater is closer."""
    L2 = "l2"
    """Euclidean distance; smaller is closer."""

    @property
    def greater_is_closer(self) -> bool:
        """Whether of two scores the greater one is the better."""
        return self is not Metric.L2


class Algorithm(StrEnum):
    """How an index is searched."""

    HNSW = "hnsw"
    """A graph of near neighbours (Malkov and Yashunin, 2016)."""
    EXACT = "exact"
    """Every vector is compared."""


class Storage(StrEnum):
    """How the numbers of a vector are kept."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    """One byte a number, between the smallest and greatest value of its dimension."""


_BOUNDS = {"m": (2, 256), "ef_construction": (4, 4096), "ef_search": (1, 16_384)}


@dataclass(frozen=True, slots=True)
class IndexParameters:
    """What an index is built with.

    Attributes:
        metric: How vectors are compared.
        algorithm: How it is searched.
        storage: How numbers are kept.
        m: Neighbours that each vector has in a layer of the graph (2 × m in the lowest).
        ef_construction: Candidates that are looked at when a vector is added.
        ef_search: Candidates that are looked at in a search that does not say otherwise.

    Raises:
        InvalidRequest: A parameter is out of bounds; names it.
    """

    metric: Metric = Metric.COSINE
    algorithm: Algorithm = Algorithm.HNSW
    storage: Storage = Storage.FP32
    m: int = 32
    ef_construction: int = 80
    ef_search: int = 64

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InvalidRequest(f"{name} = {value!r}, expected a whole number from {least} to {most}")

    def to_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        return {
            key: str(value) if isinstance(value, StrEnum) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Self:
        """What ``to_json`` gave.

        Raises:
            ValueError, TypeError, InvalidRequest: It is something else.
        """
        kinds = {"metric": Metric, "algorithm": Algorithm, "storage": Storage}
        values: dict[str, Any] = {key: kinds.get(key, lambda v: v)(value) for key, value in told.items()}
        return cls(**values)


def check_ef(ef: int) -> int:
    """The same number, if a search can be made with it.

    Raises:
        InvalidRequest: It is out of bounds.
    """
    least, most = _BOUNDS["ef_search"]
    if isinstance(ef, bool) or not least <= ef <= most:
        raise InvalidRequest(f"ef = {ef!r}, expected a whole number from {least} to {most}")
    return ef
