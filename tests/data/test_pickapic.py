"""Pick-a-Pic becomes one winner a prompt, and pairs that name the preferred image first."""

import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spin.data.manifest import read_manifest, read_pairs, read_prompts
from spin.data.stored import open_stored
from spin.errors import DataError
from spin.runtime.files import read_json
from tests.data.images import jpeg
from tests.data.sources import bring, judged, write_pickapic
from tests.data.tables import whole


def test_pickapic_gives_one_winner_a_prompt(tmp_path: Path) -> None:
    source = write_pickapic(tmp_path / "pickapic")
    splits = {"val_split": "validation_unique", "test_split": "test_unique"}
    out = bring(tmp_path / "out", source=str(source), pairs=False, num_val=2, num_test=4, **splits)
    manifest, card = whole(read_manifest(out), "id", "caption"), read_json(out / "card.json")
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
    with tarfile.open(out / "images/shard-00000.tar") as shard:
        assert len(shard.getnames()) == 12


def test_pickapic_pairs_name_the_preferred_image_first(tmp_path: Path) -> None:
    rows = [judged(index, f"prompt {index}", 1.0, jpg_0=jpeg(index, (40, 64))) for index in range(4)]
    rows += [judged(index, f"prompt {index}", 0.0, jpg_1=jpeg(index, (40, 64))) for index in range(4, 8)]
    rows += [judged(9, "prompt 0", 1.0, jpg_0=rows[0]["jpg_0"])]  # the same winner beats another image
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part.parquet")
    out = bring(tmp_path / "out", source=str(tmp_path / "part.parquet"), pairs=True)
    manifest = whole(read_manifest(out), "caption", "image")
    columns = "caption", "image_w", "image_l", "original_height", "original_height_l"
    pairs = whole(read_pairs(out), *columns)
    train = set(manifest["caption"])
    assert len(manifest) == 6
    assert set(pairs["caption"]) == train
    assert len(pairs) == 6 + ("prompt 0" in train)
    assert (pairs["original_height"] == 64).all(), "winners are the high images"
    assert (pairs["original_height_l"] == 48).all()
    assert set(pairs["image_w"]) == set(manifest["image"])
    for reference in {*pairs["image_w"], *pairs["image_l"]}:
        assert open_stored(out, reference).size == (32, 32)
    held_out = {*read_prompts(out, "val")["prompt"], *read_prompts(out, "test")["prompt"]}
    assert not held_out & train
    assert len(held_out) == 2


def test_a_split_that_is_too_small_or_missing_is_one_sentence(tmp_path: Path) -> None:
    source = str(write_pickapic(tmp_path / "pickapic"))
    with pytest.raises(DataError, match=r"data\.num_test must be <= 4, the distinct captions of split test"):
        bring(tmp_path / "one", source=source, pairs=False, test_split="test_unique", num_test=5)
    with pytest.raises(DataError, match=r"must hold files named nope-\*\.parquet, found none"):
        bring(tmp_path / "two", source=source, pairs=False, split="nope")
