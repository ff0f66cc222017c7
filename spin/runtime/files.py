"""Writing so that nothing is ever half-written, to a temporary name in the same folder, then renamed; reading what is whole.

A folder in outputs/ gets a list of its files' hashes (`spin.runtime.sums`). A file that is an output by itself has no
place for one: it is sealed (`spin.runtime.seals`).
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spin.errors import DamagedError, FileError
from spin.runtime.remedies import remedy
from spin.runtime.seals import SEAL, UNSEALED, seal
from spin.runtime.sums import checked, is_listed, is_output, write_sums
from spin.runtime.sums import sha256_file as sha256_file

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_dir(path: Path, sums: bool = True) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; swap it into place if the block ends without an error.

    An older folder at `path` stays whole until the new one is complete. In outputs/ and .spin/ the new one gets a list of
    the hashes of its files, unless `sums` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_by_a_killed_run in path.parent.glob(f".{path.name}.tmp.*"):
        shutil.rmtree(left_by_a_killed_run, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if sums and is_listed(path):
            write_sums(temporary)
        for written in (*temporary.rglob("*"), temporary):
            _to_disk(written)
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp.old.", dir=path.parent))
            path.rename(retired / path.name)
            temporary.rename(path)
            shutil.rmtree(retired)
        else:
            temporary.rename(path)
        _to_disk(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    """What the user keeps from others; asking for it means setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _to_disk(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk: a renamed file may else be empty after a crash."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any, sealed_for: Path | None = None) -> None:
    """Write `value` as sorted, indented JSON; NaN and infinity are refused (they are not JSON).

    An object that is an output by itself is sealed for the place where it will lie.
    """
    value = value if sealed_for is None else {**value, SEAL: UNSEALED}
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with replacing_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
        if sealed_for is not None:
            seal(temporary, sealed_for)


def read_json(path: Path) -> Any:
    """Read a JSON file written by `write_json`, without its seal.

    Raises `FileError` if it is missing or torn, `DamagedError` if an output is torn or holds other bytes than were written.
    """
    checked(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, "JSON", error) from None
    if isinstance(value, dict):
        value.pop(SEAL, None)
    return value


def write_parquet(path: Path, frame: "pd.DataFrame", sealed_for: Path) -> None:
    """Write a table that is an output by itself, sealed for the place where it will lie."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**table.schema.metadata, SEAL.encode(): UNSEALED.encode()}
    with replacing_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)
        seal(temporary, sealed_for)


def read_parquet(path: Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read a table written by a stage.

    Raises `FileError` if it is missing or torn or lacks one of `columns`, `DamagedError` if an output does or holds other
    bytes than were written.
    """
    import pandas as pd  # here: most commands that read JSON need no tables

    checked(path)
    try:
        return pd.read_parquet(path, columns=columns)
    except Exception as error:  # of Arrow's readers on damaged bytes: any
        raise unreadable(path, "parquet", error) from None


def unreadable(path: Path, kind: str, error: Exception) -> FileError | DamagedError:
    """What to raise for a file that a reader of `kind` does not take."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    said = f"{path} must be a whole {kind} file, but it does not read ({reason}); {remedy(path)}."
    return DamagedError(said) if path.is_file() and is_output(path) else FileError(said)


def sha256_tree(root: Path, pattern: str = "**/*") -> str:
    """Return one hex SHA-256 over the relative names and bytes of the files below `root`."""
    digest = hashlib.sha256()
    for path in sorted(path for path in root.glob(pattern) if path.is_file()):
        digest.update(f"{path.relative_to(root).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()
