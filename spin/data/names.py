"""The names of what is encoded, images by their places or captions: each once, on disk, by row."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.util import hash_array

from spin.data.index import key_of
from spin.data.manifest import ROWS_HELD, read_manifest, read_pairs, read_prompts, sizes_in
from spin.data.stored import stored_bytes
from spin.data.tags import arrangements
from spin.errors import DataError
from spin.params.training import TagParams
from spin.runtime.tables import MappedRows, Table, mapped_array


class Names:
    """Names in the order in which they first come, in a mapped file; 16 bytes a name in memory."""

    def __init__(self, *groups: Callable[[], Iterable[Sequence[str]]]) -> None:
        """Take what each of `groups` gives, some thousand names at a time; it is called twice, and names may come again."""

        def parts() -> Iterator[Sequence[str]]:
            return itertools.chain.from_iterable(group() for group in groups)

        empty = np.zeros(0, np.int64), np.zeros(0, np.uint64)
        hashed = [[empty, *map(_hashes, group())] for group in groups]
        keys, others = map(np.concatenate, zip(*itertools.chain(*hashed), strict=True))
        ends = np.cumsum([sum(len(part) for part, _ in group) for group in hashed])
        _, first, same = np.unique(keys, return_index=True, return_inverse=True)
        assert (others == others[first][same]).all(), "two names share 64 bits of SHA-256"
        chosen = np.zeros(len(keys), dtype=bool)
        chosen[first] = True
        self.keys: npt.NDArray[np.int64] = keys[chosen]
        """Of the names, by row."""
        self.groups = [int(part.sum()) for part in np.split(chosen, ends[:-1])]
        """How many names each group brought."""
        self.by_key = np.argsort(self.keys)
        """Rows in the order of their keys."""
        self._names = MappedRows(_chosen(parts(), chosen))

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> list[str]:
        """The names of rows, one or more."""
        return list(self._names.take(rows)["name"])

    def rows_of(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of names that are here."""
        keys = np.array([key_of(name) for name in names], dtype=np.int64)
        return self.by_key[np.searchsorted(self.keys, keys, sorter=self.by_key)]


def _hashes(names: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    keys = np.array([key_of(name) for name in names], dtype=np.int64)
    return keys, hash_array(np.array(names, dtype=object), categorize=False)


def _chosen(parts: Iterable[Sequence[str]], chosen: npt.NDArray[np.bool_]) -> Iterator[pa.RecordBatch]:
    start = 0
    for part in parts:
        kept = [name for name, keep in zip(part, chosen[start : start + len(part)], strict=True) if keep]
        yield pa.record_batch({"name": pa.array(kept, pa.string())})
        start += len(part)


def names_in(data: Path, tags: TagParams | None = None) -> tuple[Names, Names]:
    """Every image to encode, a group of one size after the other, and every caption: the empty one first, arrangements of
    tags last."""
    manifest = read_manifest(data)
    pairs = read_pairs(data) if (data / "pairs.parquet").is_file() else None
    sizes = sizes_in(manifest, *([pairs] if pairs else [])) or [(0, 0)]

    def images(size: tuple[int, int]) -> Iterator[list[str]]:
        yield from _images(manifest, "image", size)
        for side in ("image_w", "image_l") if pairs else ():
            yield from _images(pairs, side, size)

    def captions() -> Iterator[list[str]]:
        yield [""]
        yield from _column(manifest, "caption")
        yield from _column(pairs, "caption")
        for split in ("val", "test"):
            yield list(read_prompts(data, split)["prompt"])
        for table in (manifest, pairs) if tags else ():
            for part in _column(table, "caption"):
                yield [text for caption in part for text in arrangements(caption, tags)]

    return Names(*(partial(images, size) for size in sizes)), Names(captions)


def _column(table: Table | None, name: str) -> Iterator[list[str]]:
    return (list(frame[name]) for frame in table.batches(name)) if table else iter(())


def _images(table: Table | None, name: str, size: tuple[int, int]) -> Iterator[list[str]]:
    """The places in a column whose images have this size, (height, width)."""
    for frame in table.batches(name, "height", "width") if table else ():
        height, width = size
        yield list(frame[name][(frame["height"] == height) & (frame["width"] == width)])


def write_index(path: Path, kind: str, names: Names, sha256: npt.NDArray[np.bytes_] | None = None) -> None:
    """Write a table from the names, as the column `kind`, to their rows, sorted by key; beside it their images' SHA-256."""
    columns = [("key", pa.int64()), ("row", pa.int64()), (kind, pa.string())]
    schema = pa.schema(columns if sha256 is None else [*columns, ("sha256", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(names), ROWS_HELD):
            rows = names.by_key[start : start + ROWS_HELD]
            found = {"key": names.keys[rows], "row": rows, kind: names.at(rows)}
            if sha256 is not None:
                found["sha256"] = sha256[rows].astype(str)
            writer.write_table(pa.table(found, schema))


def image_digests(data: Path, images: Names) -> npt.NDArray[np.bytes_]:
    """The SHA-256 of the images' bytes, by row; raises `DataError` for one that is not as the manifest lists it."""
    every = range(len(images))
    parts = (every[start : start + ROWS_HELD] for start in every[::ROWS_HELD])
    digests = mapped_array((_digests(data, images.at(part)) for part in parts), "S64")
    for frame in read_manifest(data).batches("image", "sha256"):
        same = digests[images.rows_of(list(frame["image"]))] == frame["sha256"].to_numpy("S64")
        if not same.all():
            image = frame["image"].iloc[int(np.argmin(same))]
            raise DataError(
                f"{data / image} must be the image that the manifest lists, but its bytes have changed; run `spin data`."
            )
    return digests


def _digests(data: Path, images: Sequence[str]) -> npt.NDArray[np.bytes_]:
    return np.array([hashlib.sha256(stored_bytes(data, image)).hexdigest() for image in images], dtype="S64")
