"""A table from names (of images, or captions) to the rows of the tensors that belong to them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spin.errors import DataError
from spin.runtime.tables import Table, mapped_array


def key_of(name: str) -> int:
    """64 bits of the name's SHA-256, as a signed integer."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


class Index:
    """Names -> rows by binary search; 16 bytes a name in a mapped file."""

    def __init__(self, path: Path) -> None:
        self._table = Table(path)
        self._keys, self._rows = self.column("key", np.int64), self.column("row", np.int64)

    def column(self, name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A column of the table by place, in a mapped file."""
        return mapped_array((frame[name].to_numpy() for frame in self._table.batches(name)), dtype)

    def places(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Where in the table the names are; raises `DataError` for one that is not there."""
        keys = np.array([key_of(name) for name in names], dtype=np.int64)
        found = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        missing = np.flatnonzero(self._keys[found] != keys)
        if len(missing):
            raise DataError(
                f"the cache must hold {names[missing[0]]!r}, but it was made of another data set; run `spin cache`."
            )
        return found

    def rows(self, names: Sequence[str]) -> list[int]:
        """Rows of the tensors that belong to the names."""
        rows: list[int] = self._rows[self.places(names)].tolist()
        return rows
