"""Rows of a data set, one after the other: from the Hugging Face hub, from parquet files or from .tar shards."""

import glob
import itertools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from spin.data.shards import tar_rows
from spin.errors import DataError
from spin.runtime.hub import cached

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
ROWS_AT_ONCE = 64
"""Rows of a parquet file taken at a time; memory is bounded by a row group of the file, not by the file."""
READ_BYTES = 1 << 20
ROWS_PEEKED = 16
"""Rows looked at to learn which columns there are; samples of .tar shards may differ in theirs."""


class Stream(NamedTuple):
    """Rows to iterate over once, the columns they have and the commit they come from."""

    rows: Iterator[dict[str, Any]]
    first: list[dict[str, Any]]
    """The first few of the rows."""
    columns: list[str]
    revision: str | None


def open_stream(source: str, revision: str | None, split: str, config: str | None = None) -> Stream:
    """Open a source of rows, `config` of it if it has several; images come as bytes, or as {bytes, path}, undecoded.

    Raises `DataError` if the files or the hub repository cannot be found or read, here or while iterating.
    """
    files = local_files(source)
    if files:
        read = tar_rows if files[0].suffix == ".tar" else _parquet_rows
        return _peeked(read(of_split(files, split, source)), None, source)
    commit = resolve(source, revision)
    return _peeked(_hub_rows(source, commit, config, split), commit, source)


def local_files(source: str, root: Path = Path()) -> list[Path]:
    """The .parquet or .tar files that `source` names, in order; empty if it is a hub id. Paths are meant from `root`.

    Raises `DataError` if it names neither, or both kinds.
    """
    path = root / source
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in (".parquet", ".tar"))
    elif path.is_file():
        files = [path]
    else:
        files = sorted(map(Path, glob.glob(str(path), recursive=True)))
    kinds = {file.suffix for file in files}
    if len(kinds) == 1 and kinds <= {".parquet", ".tar"}:
        return files
    if not files and not path.exists() and HUB_ID.match(source):
        return []
    found = f"found {', '.join(sorted(kinds))} files" if files else "there is none"
    raise DataError(
        f"data.source must be a hub id owner/name or name .parquet files or .tar files, but {found} at {source}; "
        "correct it."
    )


def of_split(files: list[Path], split: str, source: str) -> list[Path]:
    """The files named after a split, as train-00000-of-00012.parquet is; if none is, all of them are `train`."""
    named = [file for file in files if re.match(rf"{re.escape(split)}[-.]", file.name)]
    if not named and split != "train":
        raise DataError(
            f"{source} must hold files named {split}-*{files[0].suffix}, found none; correct the split."
        )
    return named or files


def num_rows(source: str, split: str) -> int:
    """How many rows the parquet files of a split have, by their footers; 0 if that is not known without reading on."""
    files = [file for file in local_files(source) if file.suffix == ".parquet"]
    return sum(pq.read_metadata(file).num_rows for file in of_split(files, split, source)) if files else 0


def check_columns(stream: Stream, wanted: dict[str, str], source: str) -> None:
    """Raise `DataError` unless the columns named in params.yaml exist; `wanted` says by whom each is."""
    for column, parameter in wanted.items():
        names = {name for part in column.split(";") for name in (part, part.partition(".")[0])}
        if not names & set(stream.columns):
            raise DataError(
                f"{source} must have the column {column} ({parameter}), found {', '.join(stream.columns)}; correct it."
            )


def lookup(row: dict[str, Any], column: str) -> Any:
    """The value of `column`, of the first of `a;b` that is there, or of a field of a record as in `json.caption`."""
    for name in column.split(";"):
        if row.get(name) is not None:
            return row[name]
        record, _, field = name.partition(".")
        if field and isinstance(row.get(record), dict):
            return row[record].get(field)
    return None


def image_bytes(value: object) -> bytes | None:
    """The encoded image of a column's value. Paths and links are not followed: a file from others could name any."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def resolve(source: str, revision: str | None) -> str:
    """The commit of a hub repository, of the newest if `revision` is None: of the newest that `spin fetch` saw where the hub
    cannot be reached. Raises `DataError` if neither knows."""
    from huggingface_hub import HfApi

    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    try:
        return str(HfApi().dataset_info(source, revision=revision, timeout=20).sha)
    except Exception as error:  # of the hub's client and of the HTTP library below it
        seen = cached(source, revision, ["README.md"], kind="dataset")
        if seen is not None:
            return seen.name
        raise DataError(
            f"data.source must be a data set on the hub or a path that exists, but {source}"
            f"{f' at revision {revision}' if revision else ''} cannot be reached ({_first_line(error)}); "
            "check its name, the network and your access."
        ) from None


def _hub_rows(source: str, commit: str, config: str | None, split: str) -> Iterator[dict[str, Any]]:
    import datasets

    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is told below
    try:
        opened = datasets.load_dataset(source, config, revision=commit, split=split, streaming=True)
        yield from opened.decode(False) if opened.features else opened
    except Exception as error:  # of the library, of Arrow, of the HTTP client
        raise DataError(
            f"the rows of split {split} of {source} must be readable, but they are not ({_first_line(error)}); "
            "correct data.split or try again."
        ) from None


def _parquet_rows(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """Rows of local files, a few at a time; `datasets` would read many row groups ahead."""
    for path in paths:
        try:
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES) as table:
                for batch in table.iter_batches(ROWS_AT_ONCE):
                    yield from batch.to_pylist()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"{path} must be a parquet file, but it cannot be read ({_first_line(error)}); fetch it again."
            ) from None


def _peeked(rows: Iterator[dict[str, Any]], revision: str | None, source: str) -> Stream:
    first = list(itertools.islice(rows, ROWS_PEEKED))
    if not first:
        raise DataError(f"{source} must hold rows, found none; correct data.source or data.split.")
    columns = list(dict.fromkeys(name for row in first for name in row))
    return Stream(itertools.chain(first, rows), first, columns, revision)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
