"""Single files that hold a hash of all their other bytes and of their place, so that they are checked without a list.

The hash is the value of the key `spin.sha256` in a JSON object or in the metadata of a parquet file, both of which keep it
as plain text. It is made over the file with zeros in its place, and over the names of the file and of its folder: the scores
of one model under the name of another are found, too.
"""

import hashlib
import os
import re
from pathlib import Path

SEAL = "spin.sha256"
UNSEALED = 64 * "0"
"""The value that `seal` replaces."""
_PLACE = re.compile(rb'spin\.sha256(?:": "|\x18@)(.{64})', re.DOTALL)  # in JSON, and in parquet's Thrift


def seal(path: Path, place: Path) -> None:
    """Seal a file, written with `UNSEALED` under the key `SEAL`, for the place where it will lie."""
    content = path.read_bytes()
    path.write_bytes(_with(content, _digest(content, place)))


def is_unbroken(path: Path) -> bool:
    """Whether a file is what was sealed for its place; also one without a seal, as they were before there were any."""
    if path.suffix not in (".json", ".parquet"):
        return True
    content = path.read_bytes()
    found = _PLACE.search(content)
    return found is None or found[1] == _digest(_with(content, UNSEALED.encode()), path)


def _with(content: bytes, value: bytes) -> bytes:
    found = _PLACE.search(content)
    assert found, "written without a place for the seal"
    return content[: found.start(1)] + value + content[found.end(1) :]


def _digest(content: bytes, place: Path) -> bytes:
    folder = Path(os.path.abspath(place)).parent.name
    return hashlib.sha256(f"{folder}/{place.name}\n".encode() + content).hexdigest().encode()
