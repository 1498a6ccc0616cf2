"""Which vectors of an index a search may find."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from lakehouse.errors import InvalidRequest


class Selection:
    """Some positions of an index, which has ``size`` of them.

    Args:
        mask: Of shape ``(size,)``; true where a vector may be found.
    """

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        if mask.ndim != 1 or mask.dtype != np.bool_:
            raise InvalidRequest(
                f"a selection came as {mask.dtype} of shape {mask.shape}, expected one truth value a vector"
            )
        self._mask = mask
        self.count = int(np.count_nonzero(mask))
        self._positions: NDArray[np.int64] | None = None
        self._bits: NDArray[np.uint8] | None = None

    @classmethod
    def of(cls, positions: NDArray[np.int64], size: int) -> Self:
        """The selection of these positions, in any order, each as often as it likes.

        Raises:
            InvalidRequest: One is not in the index.
        """
        if len(positions) and not (positions.min() >= 0 and positions.max() < size):
            raise InvalidRequest(f"a selection names positions that an index of {size} vectors does not have")
        mask = np.zeros(size, dtype=np.bool_)
        mask[positions] = True
        return cls(mask)

    @property
    def size(self) -> int:
        """How many vectors the index has that is meant."""
        return len(self._mask)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Of shape ``(size,)``; true where a vector may be found."""
        return self._mask

    @property
    def share(self) -> float:
        """The part of the index that is selected, from 0 to 1."""
        return self.count / self.size if self.size else 0.0

    @property
    def positions(self) -> NDArray[np.int64]:
        """What is selected, ascending; int64."""
        if self._positions is None:
            self._positions = np.flatnonzero(self._mask).astype(np.int64, copy=False)
        return self._positions

    @property
    def bits(self) -> NDArray[np.uint8]:
        """One bit a vector, the lowest bit of each byte first."""
        if self._bits is None:
            self._bits = np.packbits(self._mask, bitorder="little")
        return self._bits
