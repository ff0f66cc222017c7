"""Parquet files and WebDataset shards, brought to one manifest row by row."""

import io
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spin.data import manifest as tables
from spin.data.card import DataCard
from spin.data.manifest import read_manifest
from spin.data.writer import CaptionedImage, DataSetWriter
from spin.errors import DataError
from spin.params.data import FolderData
from spin.runtime.files import read_json, sha256_tree
from tests.data.images import jpeg
from tests.data.sources import Row, bring, captioned, write_tar


def test_parquet_and_tar_shards_give_the_same_data_set(tmp_path: Path) -> None:
    rows = captioned(20)
    (tmp_path / "bytes").mkdir()
    (tmp_path / "records").mkdir()
    (tmp_path / "tars").mkdir()
    for part, start in enumerate((0, 10)):
        some = rows[start : start + 10]
        pq.write_table(pa.Table.from_pylist(some), tmp_path / "bytes" / f"part-{part}.parquet")
        records = [{**row, "image": {"bytes": row["image"], "path": "/etc/passwd"}} for row in some]
        pq.write_table(pa.Table.from_pylist(records), tmp_path / "records" / f"part-{part}.parquet")
        samples = [{"jpg": row["image"], "txt": row["text"].encode()} for row in some]
        write_tar(tmp_path / "tars" / f"part-{part}.tar", samples)
    tar = {"image_column": "png;jpg", "text_column": "txt"}
    outs = [bring(tmp_path / "out1", source=str(tmp_path / "bytes"))]
    outs += [bring(tmp_path / "out2", source=f"{tmp_path}/records/*.parquet")]
    outs += [bring(tmp_path / "out3", source=str(tmp_path / "tars"), **tar)]
    for out in outs:
        (out / "card.json").unlink()
    assert len({sha256_tree(out) for out in outs}) == 1
    assert len(read_manifest(outs[0])) == 18


def test_samples_of_a_tar_may_lack_parts(tmp_path: Path) -> None:
    samples = [{"jpg": jpeg(0)}, {"jpg": jpeg(1), "json": b"{torn"}, {"json": b'{"caption": "no image"}'}]
    samples += [{"jpg": jpeg(2), "json": b'{"caption": 7}'}, {"jpg": b"", "json": b'{"caption": "x"}'}]
    samples += [
        {"jpg": jpeg(9 + index), "json": json.dumps({"caption": f"c{index}"}).encode()} for index in range(5)
    ]
    write_tar(tmp_path / "a.tar", samples)
    columns = {"image_column": "jpg", "text_column": "json.caption"}
    out = bring(tmp_path / "out", source=str(tmp_path / "a.tar"), **columns)
    assert len(pd.read_parquet(out / "manifest.parquet")) == 5
    assert read_json(out / "card.json")["dropped"] == {
        "without a caption": 2,
        "without an image's bytes": 1,
        "with a caption that is not text": 1,
        "that are empty": 1,
    }


def test_no_more_than_max_rows_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(captioned(20)), tmp_path / "a.parquet")
    out = bring(tmp_path / "out", source=str(tmp_path / "a.parquet"), max_rows=6)
    assert read_json(out / "card.json")["rows_read"] == 6


def test_an_image_column_of_links_is_not_followed(tmp_path: Path) -> None:
    rows = [{"image": f"https://example.org/{index}.jpg", "text": f"caption {index}"} for index in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"dropped 5: 5 without an image's bytes"):
        bring(tmp_path / "out", source=str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"source": "a.parquet", "text_column": "title"},
            r"must have the column title \(data.text_column\), found image, text, other",
        ),
        ({"source": "a.parquet", "pairs": False}, r"must have the column caption \(as Pick-a-Pic has it\)"),
        ({"source": "torn.parquet"}, r"torn\.parquet must be a parquet file"),
        ({"source": "torn.tar"}, "torn.tar must be a tar file"),
        ({"source": "cut.tar", "image_column": "jpg", "text_column": "txt"}, "cut.tar must be a tar file"),
        ({"source": "a.tar", "split": "test"}, r"must hold files named test-\*\.tar"),
        ({"source": "./nowhere"}, "but there is none at ./nowhere"),
        ({"source": "notes.txt"}, "but found .txt files at notes.txt"),
        ({"source": "empty.parquet"}, "must hold rows, found none"),
    ],
)
def test_a_source_that_is_wrong_is_one_sentence(
    settings: Row, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.Table.from_pylist(captioned(5)), "a.parquet")
    pq.write_table(pa.Table.from_pylist(captioned(1)).slice(0, 0), "empty.parquet")
    write_tar(Path("a.tar"), [{"jpg": jpeg(index), "txt": b"a"} for index in range(30)])
    Path("cut.tar").write_bytes(Path("a.tar").read_bytes()[:20_000])
    for name in ("torn.parquet", "torn.tar", "notes.txt"):
        Path(name).write_bytes(b"neither one nor the other")
    with pytest.raises(DataError, match=expected) as caught:
        bring(Path("out"), **settings)
    assert "\n" not in str(caught.value)


def test_a_hub_id_that_cannot_be_reached_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"but nobody/nothing cannot be reached \(.+\); check its name"):
        bring(tmp_path / "out", source="nobody/nothing")


def noise_rows(count: int, card: DataCard) -> Iterator[CaptionedImage]:
    """Rows with images of 128 kB, made when they are asked for."""
    for index in range(count):
        card.rows_read += 1
        stream = io.BytesIO()
        Image.frombytes("RGB", (40, 40), os.urandom(4800)).save(stream, format="PNG")
        yield CaptionedImage(index, f"caption {index}", (stream.getvalue() + bytes(128_000),))


def test_memory_does_not_grow_with_the_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS_HELD", 64)
    shared = {"num_val": 5, "num_test": 5, "small_images": "drop", "aspect_buckets": None}
    params = FolderData(kind="folder", path="x", trigger=None, repeats=False, **shared)
    peaks = []
    for count in (150, 150, 900):  # the first one warms caches up
        out = tmp_path / f"out{len(peaks)}"
        out.mkdir()
        card = DataCard(source="noise")
        writer = DataSetWriter(out, params, 32, card)
        tracemalloc.start()
        writer.write(noise_rows(count, card))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.25 * peaks[1], peaks
    assert peaks[2] < 100 * 128_000, "the images alone are more than this"
