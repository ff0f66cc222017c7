"""Tables of millions of rows: read by column in batches, or a few rows at a time from a mapped file.

Neither puts a table into memory. What is mapped lies in a file without a name below .spin/ that is gone with its last
reader; its pages are the kernel's to drop.
"""

import itertools
import math
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spin import paths
from spin.runtime.files import unreadable
from spin.runtime.sums import checked

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROWS_AT_ONCE = 1 << 12
"""Rows of a batch."""
READ_BYTES = 1 << 20
"""Of a column at a time: a file's column may be one block of all its rows."""


class Table:
    """The rows of a parquet file, or those with a given value in one column, in the order of the file."""

    def __init__(self, path: Path, where: tuple[str, str] | None = None) -> None:
        """Open the rows whose column `where[0]` is `where[1]`.

        Raises, here or where it is read, `FileError` if the file is missing or torn or lacks a column, and
        `DamagedError` if an output does or holds other bytes than were written.
        """
        self._path, self._where = path, where
        self._num_rows = sum(len(batch) for batch in self._read([]))

    def __len__(self) -> int:
        return self._num_rows

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        import pyarrow.parquet as pq

        names: list[str] = pq.read_schema(self._path).names
        return names

    def batches(self, *columns: str) -> Iterator["pd.DataFrame"]:
        """All rows, some thousand at a time."""
        for batch in self._read(columns):
            yield batch.to_pandas()

    def mapped(self, *columns: str) -> "MappedRows":
        """All rows, copied to a mapped file."""
        return MappedRows(self._read(columns))

    def _read(self, columns: Sequence[str]) -> Iterator["pa.RecordBatch"]:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        checked(self._path)
        wanted = list(dict.fromkeys([*columns, *(self._where or ())[:1]]))
        try:
            with pq.ParquetFile(self._path, pre_buffer=False, buffer_size=READ_BYTES) as file:
                lacking = [name for name in wanted if name not in file.schema_arrow.names]
                if lacking:
                    raise ValueError(f"no column {', '.join(lacking)}")
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted, use_threads=False):
                    if self._where:
                        batch = batch.filter(pc.equal(batch[self._where[0]], self._where[1]))
                    yield batch.select(list(columns))
        except Exception as error:  # of Arrow's readers on damaged bytes: any
            raise unreadable(self._path, "parquet", error) from None
        pa.default_memory_pool().release_unused()


class MappedRows:
    """Rows of a table by number, read from a mapped file."""

    def __init__(self, batches: Iterator["pa.RecordBatch"]) -> None:
        import pyarrow as pa

        first = next(batches, None)
        self._parts: list[pa.RecordBatch] = []
        if first is not None:
            with _unnamed_file() as file:
                with pa.ipc.new_file(file, first.schema) as writer:
                    for batch in itertools.chain([first], batches):
                        writer.write_batch(batch)
                reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(_mapped_bytes(file))))
            self._parts = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._ends = np.cumsum([len(part) for part in self._parts])

    def take(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> "pd.DataFrame":
        """Rows in the order given, one or more; raises `IndexError` for one that is not there."""
        import pyarrow as pa

        # Arrow's own take of a table in parts joins all of them first.
        wanted = np.asarray(rows, dtype=np.int64)
        places = np.searchsorted(self._ends, wanted, side="right")
        if not ((0 <= wanted) & (places < len(self._parts))).all():
            raise IndexError(f"rows must be in [0, {self._ends[-1]}), got {wanted.tolist()}")
        taken, order = [], []
        for place in np.unique(places):
            mine = np.flatnonzero(places == place)
            start = self._ends[place - 1] if place else 0
            taken.append(self._parts[place].take(pa.array(wanted[mine] - start)))
            order.append(mine)
        found: pd.DataFrame = pa.Table.from_batches(taken).to_pandas()
        return found.iloc[np.argsort(np.concatenate(order))]


def mapped_array(parts: Iterable[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The concatenation of one-dimensional parts, in a mapped file as `dtype`."""
    with _unnamed_file() as file:
        num_rows = 0
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype=dtype).data)
            num_rows += len(part)
        return np.frombuffer(_mapped_bytes(file) if num_rows else b"", dtype=dtype)


def mapped_room(shape: tuple[int, ...], fill: float) -> npt.NDArray[np.float32]:
    """An array to write to, in a mapped file: `fill` everywhere."""
    with _unnamed_file() as file:
        file.truncate(4 * math.prod(shape))
        room = np.frombuffer(mmap.mmap(file.fileno(), 0), dtype=np.float32).reshape(shape)
    room.fill(fill)
    return room


def _unnamed_file() -> IO[bytes]:
    paths.WORK.mkdir(exist_ok=True)
    return tempfile.TemporaryFile(dir=paths.WORK)


def _mapped_bytes(file: IO[bytes]) -> mmap.mmap:
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
