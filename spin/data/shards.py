"""WebDataset shards: .tar files in which the files of one sample lie together and share a name up to the first dot.

Read here and not by `datasets`, which takes the columns from the first samples and stops at one that differs.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from spin.data.images import MAX_FILE_BYTES
from spin.errors import DataError


def tar_rows(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield each sample as {ending: bytes}, in the order of the shards; .txt is text and .json is read.

    Raises `DataError` with the name of a shard that is no tar file or is cut short.
    """
    for path in paths:
        try:
            with tarfile.open(path, "r|*") as archive:
                yield from _samples(archive)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(
                f"{path} must be a tar file of samples, but it cannot be read ({error}); fetch it again."
            ) from None


def _samples(archive: tarfile.TarFile) -> Iterator[dict[str, Any]]:
    key, sample = "", dict[str, Any]()
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # else tarfile remembers every member of a large shard
        path = PurePosixPath(member.name)
        stem, _, ending = path.name.partition(".")
        if not member.isfile() or not stem or not ending:  # links, folders and hidden files are no samples
            continue
        if str(path.parent / stem) != key:
            if sample:
                yield sample
            key, sample = str(path.parent / stem), {}
        sample[ending.lower()] = _content(archive, member, ending.lower())
    if sample:
        yield sample


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> Any:
    stream = archive.extractfile(member) if member.size <= MAX_FILE_BYTES else None
    data = stream.read() if stream else None
    if data is None or ending not in ("txt", "json"):
        return data
    try:
        text = data.decode("utf-8-sig")
        return json.loads(text) if ending == "json" else text
    except (ValueError, RecursionError):
        return None  # a caption that cannot be read is no caption
