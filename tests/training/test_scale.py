"""A training set's memory hardly grows with its rows; benchmarks/manifest_scale.py measures it up to ten million."""

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.manifest_scale import CACHE, DATA, OPPONENTS, write_set
from spin.data.cache import Cache
from spin.training.examples import spin_training_set

SMALL, LARGE = 5_000, 25_000
HELD, PEAK = 30, 40
"""Bytes a row; what is held is the names and sums of the shards. As frames the tables took some 1,000."""


def memory_of(folder: Path) -> tuple[int, int]:
    """Bytes that an opened training set holds, and those held at most while it is opened and read."""
    write_set(folder, int(folder.name))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tracemalloc.start()
        training_set = spin_training_set(DATA, Cache(CACHE), OPPONENTS)
        training_set.fetch(range(0, training_set.num_rows, 100), None)
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return held + pa.total_allocated_bytes(), peak


def test_memory_a_row_is_bounded(tmp_path: Path) -> None:
    memory_of(tmp_path / "1000")  # warms caches up
    small, large = (memory_of(tmp_path / str(size)) for size in (SMALL, LARGE))
    held, peak = ((after - before) / (LARGE - SMALL) for before, after in zip(small, large, strict=True))
    assert (held < HELD, peak < PEAK) == (True, True), (held, peak)
