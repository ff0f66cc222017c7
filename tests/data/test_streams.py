"""Pick-a-Pic, parquet files and WebDataset shards, brought to one manifest row by row."""

import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spin.data import manifest as tables
from spin.data.card import DataCard
from spin.data.dataset import write_dataset_data
from spin.data.manifest import read_manifest, read_pairs, read_prompts
from spin.data.pickapic import write_pickapic_data
from spin.data.writer import CaptionedImage, DataSetWriter
from spin.errors import DataError
from spin.params.data import DatasetData, FolderData, PickapicData
from spin.runtime.files import read_json, sha256_tree
from tests.data.images import jpeg

Row = dict[str, Any]


def bring(out: Path, **given: Any) -> Path:
    """Run a data stage at 32 pixels with a test's own settings."""
    out.mkdir()
    shared = {"revision": None, "split": "train", "max_rows": None, "small_images": "drop"}
    shared |= {"num_val": 1, "num_test": 1, **given}
    if "pairs" in given:
        pickapic = {"kind": "pickapic", "val_split": None, "test_split": None, **shared}
        write_pickapic_data(out, PickapicData(**pickapic), 32)
    else:
        columns = {"config": None, "image_column": "image", "text_column": "text"}
        write_dataset_data(out, DatasetData(**{"kind": "dataset", **columns, **shared}), 32)
    return out


def judged(index: int, caption: str | None, label: float | None, **changed: Any) -> Row:
    images = {"jpg_0": jpeg(2 * index), "jpg_1": jpeg(2 * index + 1)}
    return {**images, "label_0": label, "caption": caption, "ranking_id": index, **changed}


def write_pickapic(folder: Path) -> Path:
    """12 prompts with 2 comparisons each, some of them unusable, in the names that the hub gives its files."""
    rows = [judged(index, f"prompt {index // 2}", float(index % 2)) for index in range(24)]
    rows[0]["jpg_1"] = b"torn"  # its winner: the prompt falls back on its second comparison
    rows += [judged(30, "prompt 1", 0.5), judged(31, "prompt 2", 0.5), judged(32, "prompt 3", None)]
    rows += [judged(33, "", 1.0), judged(34, "prompt 4", 1.0, jpg_1=jpeg(68)), judged(35, "test 0", 1.0)]
    rows += [judged(36, "prompt 5", 1.0, jpg_1=None)]
    (folder / "data").mkdir(parents=True)
    for part, start in enumerate((0, 20)):
        table = pa.Table.from_pylist(rows[start : start + 20])
        pq.write_table(table, folder / "data" / f"train-{part:05d}-of-00002-abc.parquet")
    for split in ("validation_unique", "test_unique"):
        held_out = [judged(40 + index, f"{split[:4]} {index}", 1.0) for index in range(4)]
        pq.write_table(
            pa.Table.from_pylist(held_out), folder / "data" / f"{split}-00000-of-00001-abc.parquet"
        )
    return folder


def test_pickapic_gives_one_winner_a_prompt(tmp_path: Path) -> None:
    source = write_pickapic(tmp_path / "pickapic")
    splits = {"val_split": "validation_unique", "test_split": "test_unique"}
    out = bring(tmp_path / "out", source=str(source), pairs=False, num_val=2, num_test=4, **splits)
    manifest, card = read_manifest(out), read_json(out / "card.json")
    assert sorted(manifest["caption"]) == sorted(f"prompt {index}" for index in range(12))
    assert list(manifest["id"][:2]) == ["train-0000001", "train-0000002"]  # row 0 does not decode
    assert card["rows_read"] == 31
    assert card["dropped"] == {
        "tied": 2,
        "without a preference": 1,
        "without a caption": 1,
        "without an image's bytes": 1,
        "of one image against itself": 1,
        "of a held-out caption": 1,
        "that do not decode": 1,
        "of a caption that has its image": 11,
    }
    assert card["kept"] == {"train": 12, "pairs": 0, "val": 2, "test": 4}
    assert list(read_prompts(out, "test")["prompt"]) == ["test 0", "test 1", "test 2", "test 3"]
    assert not (out / "pairs.parquet").exists()
    assert len(list((out / "images").rglob("*.png"))) == 12


def test_pickapic_pairs_name_the_preferred_image_first(tmp_path: Path) -> None:
    rows = [judged(index, f"prompt {index}", 1.0, jpg_0=jpeg(index, (40, 64))) for index in range(4)]
    rows += [judged(index, f"prompt {index}", 0.0, jpg_1=jpeg(index, (40, 64))) for index in range(4, 8)]
    rows += [judged(9, "prompt 0", 1.0, jpg_0=rows[0]["jpg_0"])]  # the same winner beats another image
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part.parquet")
    out = bring(tmp_path / "out", source=str(tmp_path / "part.parquet"), pairs=True)
    pairs, manifest = read_pairs(out), read_manifest(out)
    train = set(manifest["caption"])
    assert len(manifest) == 6
    assert set(pairs["caption"]) == train
    assert len(pairs) == 6 + ("prompt 0" in train)
    assert (pairs["original_height"] == 64).all(), "winners are the high images"
    assert (pairs["original_height_l"] == 48).all()
    assert set(pairs["image_w"]) == set(manifest["image"])
    for reference in {*pairs["image_w"], *pairs["image_l"]}:
        assert (out / reference).is_file()
    held_out = {*read_prompts(out, "val")["prompt"], *read_prompts(out, "test")["prompt"]}
    assert not held_out & train
    assert len(held_out) == 2


def test_a_split_that_is_too_small_or_missing_is_one_sentence(tmp_path: Path) -> None:
    source = str(write_pickapic(tmp_path / "pickapic"))
    with pytest.raises(DataError, match=r"data\.num_test must be <= 4, the distinct captions of split test"):
        bring(tmp_path / "one", source=source, pairs=False, test_split="test_unique", num_test=5)
    with pytest.raises(DataError, match=r"must hold files named nope-\*\.parquet, found none"):
        bring(tmp_path / "two", source=source, pairs=False, split="nope")


def captioned(count: int) -> list[Row]:
    return [{"image": jpeg(index), "text": f"caption {index}", "other": index} for index in range(count)]


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for index, sample in enumerate(samples):
            for ending, data in sample.items():
                member = tarfile.TarInfo(f"{path.stem}/{index:06d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


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
    params = FolderData(kind="folder", path="x", num_val=5, num_test=5, small_images="drop")
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
