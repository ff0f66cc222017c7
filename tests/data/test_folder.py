"""People's own folders of captioned images."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from spin.data.folder import write_folder_data
from spin.data.manifest import read_manifest, read_prompts
from spin.data.stored import stored_bytes
from spin.errors import DataError
from spin.params.data import FolderData
from spin.runtime.files import read_json, sha256_tree
from tests.data.images import USABLE, picture, write_mixed_folder
from tests.data.tables import column


def bring(
    folder: Path, out: Path, num_val: int = 1, num_test: int = 1, small: str = "drop", **given: Any
) -> pd.DataFrame:
    out.mkdir()
    shared = {
        "num_val": num_val,
        "num_test": num_test,
        "small_images": small,
        "aspect_buckets": None,
        "trigger": None,
        "repeats": False,
    }
    params = FolderData(**{"kind": "folder", "path": str(folder), **shared, **given})
    write_folder_data(out, params, 32)
    return pd.read_parquet(out / "manifest.parquet")


def make_folder(folder: Path, kind: str, captions: dict[str, str], column: str = "text") -> Path:
    folder.mkdir()
    for index, name in enumerate(captions):
        picture(index).save(folder / name)
        if kind in ("txt", "caption"):
            (folder / name).with_suffix(f".{kind}").write_text(captions[name])
    rows = [{"file_name": name, column: caption} for name, caption in captions.items()]
    if kind == "csv":
        pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    elif kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


SIX = {f"{index}.png": f"caption {index}" for index in range(6)}


def test_every_kind_of_metadata_gives_the_same_data_set(tmp_path: Path) -> None:
    trees = set()
    kinds = [
        ("csv", "text"),
        ("jsonl", "text"),
        ("txt", ""),
        ("caption", ""),
        ("csv", "caption"),
        ("jsonl", "caption"),
    ]
    for kind, called in kinds:
        folder = make_folder(tmp_path / f"{kind}-{called}", kind, SIX, called)
        manifest = bring(folder, tmp_path / f"out-{kind}-{called}")
        assert list(manifest["split"].value_counts()[["train", "val", "test"]]) == [4, 1, 1]
        (tmp_path / f"out-{kind}-{called}" / "card.json").unlink()  # it names the folder
        trees.add(sha256_tree(tmp_path / f"out-{kind}-{called}"))
    assert len(trees) == 1


def test_a_text_goes_before_a_caption(tmp_path: Path) -> None:
    files = make_folder(tmp_path / "files", "txt", SIX)
    (files / "0.caption").write_text("not this one")
    table = make_folder(tmp_path / "table", "", SIX)
    rows = [{"caption": "not this one", "file_name": name, "text": text} for name, text in SIX.items()]
    pd.DataFrame(rows).to_csv(table / "metadata.csv", index=False)
    for folder in (files, table):
        assert set(bring(folder, tmp_path / f"out-{folder.name}")["caption"]) == set(SIX.values())


def test_a_folder_of_mixed_formats_gives_exact_counts(tmp_path: Path) -> None:
    dropped = write_mixed_folder(tmp_path / "images")
    manifest = bring(tmp_path / "images", tmp_path / "out", 2, 3)
    card = read_json(tmp_path / "out" / "card.json")
    assert card["dropped"] == dropped
    assert card["rows_read"] == USABLE + sum(dropped.values())
    assert len(manifest) == USABLE
    assert card["noted"] == {"with a caption over 75 words, which CLIP's tokenizer cuts": 1}
    assert card["kept"]["val"] == 2
    assert card["kept"]["test"] == 3
    assert card["kept"]["train"] == len(read_manifest(tmp_path / "out")) < USABLE
    assert (tmp_path / "secret.png").is_file()
    for row in manifest.itertuples():
        with Image.open(io.BytesIO(stored_bytes(tmp_path / "out", row.image))) as image:
            assert (image.mode, image.size, image.format) == ("RGB", (32, 32), "PNG")
    turned = manifest[manifest["caption"] == "a picture of turned.jpg"].iloc[0]
    geometry = turned[["original_width", "original_height", "crop_top", "crop_left"]]
    assert list(geometry) == [40, 64, 10, 0]  # 40x64 resized to 32x51, of which rows 10 to 41 are kept


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mixed_folder(tmp_path / "images")
    bring(tmp_path / "images", tmp_path / "one")
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    bring(tmp_path / "images", tmp_path / "two")
    assert sha256_tree(tmp_path / "one") == sha256_tree(tmp_path / "two")


def test_held_out_captions_do_not_depend_on_the_order_or_names_of_the_files(tmp_path: Path) -> None:
    captions = {f"{index}.png": f"caption {index}" for index in range(30)}
    turned = {f"z{index}.png": caption for index, caption in enumerate(reversed(captions.values()))}
    chosen = []
    for name, each in (("one", captions), ("two", turned)):
        out = tmp_path / f"out-{name}"
        bring(make_folder(tmp_path / name, "csv", each), out, 3, 5)
        chosen.append([list(read_prompts(out, split)["prompt"]) for split in ("val", "test")])
        assert not set(column(read_manifest(out), "caption")) & {*chosen[-1][0], *chosen[-1][1]}
    assert chosen[0] == chosen[1]


def test_small_images_are_enlarged_if_asked_for(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images", "csv", SIX)
    Image.new("RGB", (8, 12)).save(folder / "0.png")
    assert len(bring(folder, tmp_path / "dropped")) == 5
    manifest = bring(folder, tmp_path / "enlarged", small="upscale").set_index("caption")
    assert list(manifest.loc["caption 0", ["width", "original_width", "crop_top"]]) == [32, 8, 8]


@pytest.mark.parametrize("content", [b"", b"file_name,text\n\xff\xfe", b"a,b\n1,2\n"])
def test_a_torn_table_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    folder = make_folder(tmp_path / "images", "", SIX)
    (folder / "metadata.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"metadata\.csv must"):
        bring(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"file_name": "0.png", "text": "a"}\n{', "not so line 2"),
        ("[1]", "not so line 1"),
        ('{"file_name": "0.png", "title": "a"}', "found file_name, title"),
        ("", "found none"),
    ],
)
def test_torn_json_lines_are_one_sentence(tmp_path: Path, content: str, expected: str) -> None:
    folder = make_folder(tmp_path / "images", "", SIX)
    (folder / "metadata.jsonl").write_text(content)
    with pytest.raises(DataError, match=expected):
        bring(folder, tmp_path / "out")


def test_a_table_with_a_byte_order_mark_and_a_very_long_caption_is_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images", "", SIX)
    with (folder / "metadata.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream).writerows([("file_name", "text"), *SIX.items()][:-1])
        csv.writer(stream).writerow(("5.png", "word " * 60_000))
    assert len(bring(folder, tmp_path / "out")) == 6


def test_sidecars_outside_the_folder_or_not_utf8_are_counted(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images", "txt", SIX)
    (tmp_path / "secret.txt").write_text("a secret")
    (folder / "0.txt").unlink()
    (folder / "0.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "1.txt").write_bytes(b"caf\xe9")
    (folder / "2.txt").unlink()
    bring(folder, tmp_path / "out")
    assert read_json(tmp_path / "out" / "card.json")["dropped"] == {
        "with a caption outside the folder": 1,
        "with a caption that is not UTF-8 text": 1,
        "without a caption": 1,
    }


def test_a_folder_that_leaves_nothing_to_train_on_is_one_sentence(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bare", "", SIX)
    with pytest.raises(DataError, match=r"bare must hold captions, but it has none of metadata\.csv"):
        bring(folder, tmp_path / "one")
    with pytest.raises(DataError, match="got 6 of the 6 distinct captions"):
        bring(make_folder(tmp_path / "few", "csv", SIX), tmp_path / "two", 3, 3)
    with pytest.raises(DataError, match="got 9 of the 6 distinct captions"):
        bring(tmp_path / "few", tmp_path / "three", 4, 5)
    with pytest.raises(DataError, match="there is no folder"):
        bring(tmp_path / "none", tmp_path / "four")
    for name in SIX:
        (tmp_path / "few" / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"got none \(read 6, kept 0, dropped 6: 6 that are empty\)"):
        bring(tmp_path / "few", tmp_path / "five")
