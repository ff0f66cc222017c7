"""A table gives the rows that pandas gives, and holds none of them in memory."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import spin.runtime.tables
from spin.errors import DamagedError, FileError
from spin.runtime.sums import write_sums
from spin.runtime.tables import Table, mapped_array

FRAME = pd.DataFrame(
    {
        "name": [f"row {row} é" for row in range(50)],
        "number": range(50),
        "split": ["a", "b", "b", "a", "b"] * 10,
    }
)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spin.runtime.tables, "ROWS_AT_ONCE", 7)
    Path("outputs/data").mkdir(parents=True)
    FRAME.to_parquet("outputs/data/table.parquet", index=False, row_group_size=11)


def test_rows_are_those_of_the_file_in_the_order_asked_for() -> None:
    for where, frame in ((None, FRAME), (("split", "b"), FRAME[FRAME["split"] == "b"])):
        table = Table(Path("outputs/data/table.parquet"), where)
        assert len(table) == len(frame)
        columns = ["number", "name"]
        whole = pd.concat(table.batches(*columns), ignore_index=True)
        pd.testing.assert_frame_equal(whole, frame[columns].reset_index(drop=True))
        rows, wanted = table.mapped(*columns), [random.Random(0).randrange(len(frame)) for _ in range(40)]
        found = rows.take(wanted).reset_index(drop=True)
        pd.testing.assert_frame_equal(found, frame[columns].iloc[wanted].reset_index(drop=True))
        with pytest.raises(IndexError):
            rows.take([0, len(frame)])
    assert list(Path(".spin").iterdir()) == [], "what is mapped has no name"


def test_a_split_that_has_no_rows_is_empty() -> None:
    table = Table(Path("outputs/data/table.parquet"), ("split", "c"))
    assert len(table) == 0
    assert sum(len(frame) for frame in table.batches("name")) == 0
    table.mapped("name")


def test_an_array_is_its_parts() -> None:
    assert mapped_array([np.arange(3), np.arange(0), np.arange(4)], np.int32).tolist() == [
        0,
        1,
        2,
        0,
        1,
        2,
        3,
    ]
    assert mapped_array([np.array(["abcdef"], object)], "S4").tolist() == [b"abcd"]
    assert mapped_array([], np.int64).tolist() == []


def test_what_is_torn_changed_or_lacks_a_column_is_one_sentence() -> None:
    file = Path("outputs/data/table.parquet")
    with pytest.raises(
        DamagedError, match=r"must be a whole parquet file, but it does not read \(.*no column other"
    ):
        list(Table(file).batches("other"))
    content = file.read_bytes()
    write_sums(file.parent)
    file.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    with pytest.raises(DamagedError, match=r"must hold the bytes that spin\.sha256 lists"):
        Table(file)
    with pytest.raises(FileError, match="No such file"):
        Table(Path("outputs/data/absent.parquet"))
