"""Names are kept once, in the order in which they first come, and an index finds each."""

import random
from pathlib import Path

import pandas as pd
import pytest

import spin.data.names
import spin.runtime.tables
from spin.data.index import Index
from spin.data.names import Names, write_index


def test_names_are_each_kept_once_in_their_order_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spin.data.names, "ROWS_HELD", 7)
    monkeypatch.setattr(spin.runtime.tables, "ROWS_AT_ONCE", 5)
    drawn = [f"name {random.Random(index).randrange(40)} é" for index in range(100)]
    parts = [drawn[:30], [], drawn[30:31], drawn[31:]]
    names, expected = Names(lambda: parts), list(dict.fromkeys(drawn))
    assert len(names) == len(expected)
    assert names.at(range(len(names))) == expected
    assert names.rows_of(drawn).tolist() == [expected.index(name) for name in drawn]
    write_index(tmp_path / "index.parquet", "caption", names)
    assert Index(tmp_path / "index.parquet").rows(drawn) == names.rows_of(drawn).tolist()
    table = pd.read_parquet(tmp_path / "index.parquet")
    assert list(table.columns) == ["key", "row", "caption"]
    assert table["key"].is_monotonic_increasing
    assert set(zip(table["row"], table["caption"], strict=True)) == set(enumerate(expected))
