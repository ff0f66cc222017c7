"""Long row-by-row work in resumable shards: each is a folder that is either complete or not there.

Several processes (`spin.runtime.launch`) share the shards of a stage by turns; they need a folder that all of them see.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from spin.runtime.devices import process_state
from spin.runtime.files import replacing_dir
from spin.runtime.progress import Progress
from spin.runtime.sums import is_whole

logger = logging.getLogger(__name__)


def work_key(*parts: Any) -> str:
    """A digest of everything the work depends on; other parameters or inputs never continue this work."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def shards_of(groups: Iterable[int], shard_size: int) -> list[range]:
    """The rows of all shards, one group of so many rows after the other; no shard has rows of two groups."""
    shards: list[range] = []
    start = 0
    for num_rows in groups:
        end = start + num_rows
        shards += [range(first, min(first + shard_size, end)) for first in range(start, end, shard_size)]
        start = end
    return shards


def my_shards(shards: Sequence[range]) -> list[tuple[int, range]]:
    """The shards of this process, each with its number and its rows."""
    process = process_state()
    return list(enumerate(shards))[process.process_index :: process.num_processes]


def share_label(label: str) -> str:
    """Name the progress of a process: of several the first one speaks, and of its own share alone."""
    processes = process_state().num_processes
    return f"{label} (1 of {processes} processes)" if processes > 1 else label


def wait_for_all() -> None:
    """Wait until every process has come here, so that all shards are there."""
    process_state().wait_for_everyone()


def write_shards(
    work: Path,
    shards: Sequence[range],
    write_shard: Callable[[range, Path, Progress], None],
    label: str,
    unit: str,
) -> None:
    """Fill `work` with shard-00000, shard-00001, ... of the rows in `shards`; a killed run continues from those that are there.

    `write_shard(rows, folder, progress)` computes one shard into an existing empty folder and counts its rows. A shard
    that `work` does not hold finished and undamaged is made again. Returns when the shards of all processes are there.
    """
    mine = my_shards(shards)
    missing = [(index, rows) for index, rows in mine if not is_whole(work / f"shard-{index:05d}")]
    with progress_over(label, unit, mine, missing) as progress:
        for index, rows in missing:
            with replacing_dir(work / f"shard-{index:05d}") as folder:
                write_shard(rows, folder, progress)
    wait_for_all()


def progress_over(
    label: str, unit: str, shards: Sequence[tuple[int, range]], missing: Sequence[tuple[int, range]]
) -> Progress:
    """Progress over the rows of `shards`, of which all but the `missing` ones are there and take no time."""
    total, left = (sum(len(rows) for _, rows in part) for part in (shards, missing))
    if left < total:
        logger.info("%s: %d of %d %s are kept from an earlier run", label, total - left, total, unit)
    return Progress(share_label(label), total, unit, done=total - left)


def collect_shards(work: Path, out: Path) -> None:
    """Put the finished shards of `work` into the folder `out` as well: what is killed after this finds them again."""
    for shard in sorted(work.glob("shard-*")):
        link_tree(shard, out / shard.name)


def link_tree(source: Path, target: Path) -> None:
    """Make the folder `target`, which may be there, a second place of the files below `source`, its list included."""
    shutil.copytree(source, target, copy_function=link_or_copy, dirs_exist_ok=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A second name for a file that nobody writes in place; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
