"""Whether files of weights are whole: as long as their headers say. No weights are read."""

import json
from collections.abc import Iterable
from pathlib import Path

from spin.errors import ModelError

_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors itself reads no longer one."""


def check_whole(files: Iterable[Path]) -> None:
    """Raise `ModelError` for the first of some .safetensors that is cut short, or none at all."""
    for file in files:
        if not _is_whole(file):
            raise ModelError(
                f"{file} must be whole safetensors, but its size is not what its beginning says; fetch or copy it again."
            )


def weights_read(folder: Path, variant: str | None) -> list[Path]:
    """The weights of a network's folder that are read: those of a variant such as fp16, or the plain ones."""
    files = sorted(folder.glob("*.safetensors"))
    return [file for file in files if (f".{variant}" in file.stem if variant else "." not in file.stem)]


def _is_whole(file: Path) -> bool:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if 0 < length <= min(size - 8, _LONGEST_HEADER) else b""
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        ends = [int(entry["data_offsets"][1]) for entry in tensors]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return False
    return 8 + length + max(ends, default=0) == size
