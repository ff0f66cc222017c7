"""Long row-by-row work in resumable shards: each is a folder that is either complete or not there."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spin.files import replacing_dir
from spin.progress import Progress


def work_key(*parts: Any) -> str:
    """A digest of everything the work depends on; other parameters or inputs never continue this work."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_shards(
    work: Path,
    out: Path,
    num_rows: int,
    shard_size: int,
    write_shard: Callable[[range, Path], None],
    progress: Progress,
) -> None:
    """Fill `out` with shard-00000, shard-00001, ...; a killed run continues from the shards in `work`.

    `write_shard(rows, folder)` computes one shard into an existing empty folder. Files that `work` does not hold as
    a finished shard are made again.
    """
    for index, start in enumerate(range(0, num_rows, shard_size)):
        rows = range(start, min(start + shard_size, num_rows))
        shard = work / f"shard-{index:05d}"
        if shard.is_dir():
            progress.update(len(rows), "kept from an earlier run")
            continue
        with replacing_dir(shard) as folder:
            write_shard(rows, folder)
    for shard in sorted(work.glob("shard-*")):
        shutil.copytree(
            shard, out / shard.name
        )  # copied: what is killed between here and the end finds them again
