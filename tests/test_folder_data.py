"""People's own folders of captioned images."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from spin.data.folder import write_folder_data
from spin.errors import DataError
from spin.files import read_json
from spin.params import FolderData


def make_images(folder: Path, names: list[str], size: tuple[int, int] = (40, 48)) -> None:
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        Image.new("RGB", size, (20 * index % 255, 90, 30)).save(folder / name)


def bring(folder: Path, out: Path, num_val: int = 1, num_test: int = 1) -> pd.DataFrame:
    out.mkdir()
    write_folder_data(
        out, FolderData(kind="folder", path=str(folder), num_val=num_val, num_test=num_test), 32
    )
    return pd.read_parquet(out / "manifest.parquet")


def test_the_three_kinds_of_metadata_give_the_same_manifest(tmp_path: Path) -> None:
    names = [f"{index}.png" for index in range(6)]
    manifests = []
    for kind in ("csv", "jsonl", "txt"):
        folder = tmp_path / kind
        make_images(folder, names)
        rows = [{"file_name": name, "text": f"caption {name[0]}"} for name in names]
        if kind == "csv":
            pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
        elif kind == "jsonl":
            (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        else:
            for row in rows:
                (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"])
        manifests.append(bring(folder, tmp_path / f"out-{kind}"))
    assert len(manifests[0]) == 4
    assert (manifests[0]["width"] == 32).all()
    pd.testing.assert_frame_equal(manifests[0], manifests[1])
    pd.testing.assert_frame_equal(manifests[0], manifests[2])


def test_what_cannot_be_used_is_dropped_with_a_counted_reason(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    make_images(folder, ["a.png", "b.png", "c.png", "d.png"])
    make_images(folder, ["tiny.png"], size=(8, 8))
    (folder / "broken.png").write_bytes(b"not an image")
    rows = [
        (name, f"caption {name}")
        for name in ("a.png", "b.png", "c.png", "d.png", "broken.png", "tiny.png", "no.png")
    ]
    rows += [("a.png", "again"), ("d2.png", " ")]
    pd.DataFrame(rows, columns=["file_name", "text"]).to_csv(folder / "metadata.csv", index=False)
    out = tmp_path / "out"
    out.mkdir()
    write_folder_data(out, FolderData(kind="folder", path=str(folder), num_val=1, num_test=1), 32)
    card = read_json(out / "card.json")
    assert card["rows_read"] == 9
    assert card["dropped"]["listed but missing"] == 1
    assert card["dropped"]["listed twice"] == 1
    assert card["dropped"]["without a caption"] == 1
    assert (
        card["kept"]["train"] + card["kept"]["val"] + card["kept"]["test"] + sum(card["dropped"].values())
        >= 8
    )


@pytest.mark.parametrize("content", [b"", b"file_name,text\n\xff\xfe", b"a,b\n1,2\n"])
def test_a_torn_table_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "images"
    make_images(folder, ["a.png"])
    (folder / "metadata.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"metadata\.csv must"):
        bring(folder, tmp_path / "out")


def test_a_folder_without_captions_is_refused(tmp_path: Path) -> None:
    make_images(tmp_path / "images", ["a.png", "b.png"])
    with pytest.raises(DataError, match="0 distinct captions"):
        bring(tmp_path / "images", tmp_path / "out")


def test_transparency_lies_over_white_and_rotation_is_applied(tmp_path: Path) -> None:
    from spin.data.images import open_rgb

    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_rgb(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_rgb(tmp_path / "turned.jpg").size == (4, 8)
