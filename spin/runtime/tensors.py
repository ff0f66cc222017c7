"""Tensors of a data set in safetensors shards: written with a digest of their content, read by row."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from spin.errors import DataError
from spin.runtime.files import replacing_file
from spin.runtime.remedies import remedy
from spin.runtime.sums import checked, is_whole

KEY = "spin.key"
"""The one metadata entry of a shard: a digest of what it encodes and how."""
OPEN_SHARDS = 256
"""Of a folder at a time: each is mapped, and a process has some 65,000 maps at most."""

FLIPPED = "_flipped"
"""Ending of the names of the tensors of mirrored images."""


def save_shard(path: Path, tensors: dict[str, Tensor], key: str) -> None:
    """Write the tensors, equally many rows in each, and the digest `key` of their content; all or nothing."""
    with replacing_file(path) as temporary:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata={KEY: key}
        )


def holds(path: Path, key: str) -> bool:
    """Whether `path` is a whole shard of the content `key`; a file that is damaged or of other content is not."""
    if not path.is_file() or not is_whole(path.parent):
        return False
    try:
        with safe_open(path, framework="pt") as shard:
            return (shard.metadata() or {}).get(KEY) == key
    except Exception:  # whatever the reader makes of a torn file
        return False


class ShardedTensors:
    """Rows of the safetensors files of a folder of shards, read on demand; memory does not grow with the data set.

    A shard's bytes are compared with its folder's list before the first row of it is read.
    """

    def __init__(self, folder: Path, file: str, keys: Sequence[str] | None = None) -> None:
        """Open `folder`/shard-*/`file`.safetensors.

        Raises `DataError` if there is none, if one is torn, or if they are not those with the digests `keys`;
        `DamagedError`, here or where rows are read, if one holds other bytes than were written.
        """
        self.folder = folder
        self._paths = sorted(folder.glob(f"shard-*/{file}.safetensors"))
        if not self._paths:
            raise DataError(
                f"{folder} must hold shards of {file}, found none; run the stage that makes them again."
            )
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(self._open)
        self._checked: set[int] = set()
        headers = [_header(path) for path in self._paths]
        if keys is not None:
            self._check_keys([header.key for header in headers], keys)
        self.names = headers[0].names
        """Of the tensors in every shard."""
        for path, header in zip(self._paths, headers, strict=True):
            if header.names != self.names:
                self.check()
                raise DataError(
                    f"{path} must hold {', '.join(self.names)} as the first shard does; {remedy(path)}."
                )
        self._ends = np.cumsum([header.num_rows for header in headers])

    def check(self) -> None:
        """Compare the bytes of all shards with their lists now; raises `DamagedError`."""
        for path in self._paths:
            checked(path)

    def _check_keys(self, found: Sequence[str | None], keys: Sequence[str]) -> None:
        if found != list(keys):
            for path, key, wanted in zip(self._paths, found, keys, strict=False):
                if key != wanted:
                    checked(path)
            stale = sum(key not in keys for key in found)
            raise DataError(
                f"{self.folder} must hold the {len(keys)} shards that its cache.json lists, found {len(found)}, {stale} of "
                "them stale; run `spin cache` again."
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, name: str | Sequence[str], rows: Sequence[int]) -> Tensor:
        """Gather rows of the tensor `name`, or each of a tensor of its own, in the order given: (len(rows), ...).

        Raises `DataError` if they have several shapes.
        """
        names = [name] * len(rows) if isinstance(name, str) else name
        found = [self._row(each, int(row)) for each, row in zip(names, rows, strict=True)]
        if len({row.shape for row in found}) > 1:
            raise DataError(
                f"{self.folder} must hold the images of a bucket in one size, found several; run the stage that makes it again."
            )
        return torch.stack(found)

    def _row(self, name: str, row: int) -> Tensor:
        if not 0 <= row < len(self):
            raise IndexError(row)
        shard = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[shard - 1]) if shard else 0
        tensor: Tensor = self._shard(shard).get_slice(name)[row - start]
        return tensor

    def _open(self, shard: int) -> Any:
        if shard not in self._checked:
            checked(self._paths[shard])
            self._checked.add(shard)
        return _open(self._paths[shard])


class _Header(NamedTuple):
    key: str | None
    names: list[str]
    num_rows: int  # of its first tensor, as of every other


def _header(path: Path) -> _Header:
    shard = _open(path)
    names = sorted(shard.keys())
    num_rows: int = shard.get_slice(names[0]).get_shape()[0] if names else 0
    return _Header((shard.metadata() or {}).get(KEY), names, num_rows)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except Exception as error:  # whatever the reader makes of a torn file
        checked(path)
        raise DataError(
            f"{path} must be a whole shard, but does not read ({error}); {remedy(path)}."
        ) from None


def posteriors_at(
    tensors: ShardedTensors, rows: Sequence[int], flipped: Sequence[bool] | None
) -> tuple[Tensor, Tensor]:
    """(mean, logvar) of images by row, each (B, C, h, w); those of the mirrored image where `flipped` says so.

    Raises `DataError` if mirrored images are asked for and were not encoded.
    """
    if flipped is not None and f"mean{FLIPPED}" not in tensors.names:
        raise DataError(
            f"{tensors.folder} must hold mirrored images with training.horizontal_flip, found none; run `spin cache` "
            "and `spin opponents` again."
        )
    marks = [FLIPPED if flip else "" for flip in flipped or [False] * len(rows)]
    mean, logvar = (tensors.rows([f"{name}{mark}" for mark in marks], rows) for name in ("mean", "logvar"))
    return mean, logvar
