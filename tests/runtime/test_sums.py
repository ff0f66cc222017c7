"""A folder of outputs knows its files by their hashes, a single file by its seal; what is older knows nothing."""

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from spin.errors import DamagedError, FileError
from spin.runtime.files import (
    read_json,
    read_parquet,
    replacing_dir,
    sha256_file,
    sha256_tree,
    write_json,
    write_parquet,
)
from spin.runtime.shards import link_tree
from spin.runtime.sums import SUMS, check_folder, check_sum, checked, is_whole, write_sum, write_sums

OUT = Path("outputs/things/one")
TABLE = pd.DataFrame({"prompt_id": ["a", "b"], "score": [0.1, float("nan")], "flagged": [False, True]})


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(out: Path = OUT) -> Path:
    """A folder with two files, and in it a shard that was made before it."""
    with replacing_dir(Path(".spin/work/shard")) as shard:
        (shard / "rows.bin").write_bytes(b"rows")
    with replacing_dir(out) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.txt").write_text("a text")
        write_json(folder / "b.json", {"b": 1})
        link_tree(Path(".spin/work/shard"), folder / "shard")
    return out


def test_the_list_is_that_of_sha256sum_and_the_same_every_time() -> None:
    make()
    assert [line[66:] for line in (OUT / SUMS).read_text().splitlines()[:-1]] == [
        "b.json",
        "deep/a.txt",
        f"shard/{SUMS}",
    ]
    for folder in (OUT, OUT / "shard"):
        done = subprocess.run(
            ["sha256sum", "--strict", "-c", SUMS], cwd=folder, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
    before = sha256_tree(OUT)
    make()
    assert sha256_tree(OUT) == before


def test_what_a_person_keeps_elsewhere_has_no_list() -> None:
    make(Path("export"))
    assert not (Path("export") / SUMS).exists()


def test_making_a_list_again_leaves_the_folder_that_it_was_linked_from() -> None:
    make()
    listed = (OUT / SUMS).read_bytes()
    with replacing_dir(Path("outputs/things/two")) as folder:
        link_tree(OUT, folder)
        (folder / "more").write_text("more")
    assert (OUT / SUMS).read_bytes() == listed
    check_folder(Path("outputs/things/two"))


@pytest.mark.parametrize("file", ["b.json", "deep/a.txt", "shard/rows.bin", f"shard/{SUMS}", SUMS])
def test_a_changed_byte_is_found_whenever_it_changed(file: str) -> None:
    make()
    place = OUT / file
    content = place.read_bytes()
    for changed in (
        content[:-1],
        b"",
        content[:-2] + bytes([content[-2] ^ 1]) + content[-1:],
        content + b"x",
    ):
        assert is_whole(OUT)
        times = place.stat()
        place.write_bytes(changed)
        os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a failing disk leaves them
        assert not is_whole(OUT)
        with pytest.raises(DamagedError, match=rf"^{place} must "):
            check_folder(OUT)
        place.write_bytes(content)
    place.unlink()
    if file != SUMS:
        with pytest.raises(DamagedError, match=rf"{place} must be there"):
            check_folder(OUT)


def test_a_file_that_no_list_names_is_refused_and_one_that_is_gone_is_left_to_its_reader() -> None:
    make()
    (OUT / "shard" / "another.json").write_text("{}")
    with pytest.raises(DamagedError, match=rf"another\.json must be one of the files that {SUMS} lists"):
        read_json(OUT / "shard" / "another.json")
    with pytest.raises(FileError, match="No such file"):
        read_json(OUT / "absent.json")


def test_a_folder_from_before_there_were_lists_is_read_as_it_is() -> None:
    make()
    for listing in OUT.rglob(SUMS):
        listing.unlink()
    write_json(OUT / "b.json", {"b": 2})
    assert read_json(OUT / "b.json") == {"b": 2}
    assert is_whole(OUT)
    check_folder(OUT)
    write_json(OUT / "sealed.json", {"b": 3})  # as before there were seals
    assert read_json(OUT / "sealed.json") == {"b": 3}


def test_a_file_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    hashed: list[Path] = []
    original = sha256_file
    monkeypatch.setattr(
        "spin.runtime.sums.sha256_file", lambda path: (hashed.append(path), original(path))[1]
    )
    for _ in range(3):
        checked(OUT / "deep" / "a.txt")
        check_folder(OUT)
    assert len(hashed) == len(set(hashed)) == 5, "the files and both lists"


def test_a_list_of_one_file_elsewhere() -> None:
    Path("outputs/curves").mkdir(parents=True)
    curve = Path("outputs/curves/iter1.csv")
    curve.write_text("step,loss\n1,0.5\n")
    with replacing_dir(Path("outputs/checkpoints/iter1")) as folder:
        write_sum(folder / "curve.sha256", curve)
    listing = Path("outputs/checkpoints/iter1/curve.sha256")
    assert (
        subprocess.run(["sha256sum", "-c", listing.name], cwd=listing.parent, capture_output=True).returncode
        == 0
    )
    check_sum(listing, curve)
    check_sum(listing, Path("outputs/curves/absent.csv"))
    curve.write_text("step,loss\n1,0.4\n")
    with pytest.raises(
        DamagedError, match=r"^outputs/curves/iter1\.csv must hold .*`python -m spin train --name iter1`"
    ):
        check_sum(listing, curve)


def write_sealed_json(place: Path) -> None:
    write_json(place, {"mean": {"clip": 0.25}, "text": "é"}, sealed_for=place)


def write_sealed_table(place: Path) -> None:
    write_parquet(place, TABLE, sealed_for=place)


@pytest.mark.parametrize(
    ("name", "write", "read"),
    [("summary.json", write_sealed_json, read_json), ("scores.parquet", write_sealed_table, read_parquet)],
)
def test_no_bit_of_a_sealed_file_changes_what_is_read(
    name: str, write: Callable[[Path], None], read: Callable[[Path], object]
) -> None:
    place = Path("outputs/scores/test/iter1") / name
    write(place)
    whole = place.read_bytes()
    write(place)
    assert place.read_bytes() == whole
    read(place)
    own = whole.index(b"spin.sha256")  # without the seal's name it is a file of before there were seals
    draw = random.Random(0)
    for _ in range(300):
        position = draw.choice([at for at in range(len(whole)) if not own <= at < own + 15])
        flipped = bytes([whole[position] ^ 1 << draw.randrange(8)])
        place.write_bytes(whole[:position] + flipped + whole[position + 1 :])
        with pytest.raises(
            DamagedError, match="`python -m spin score --prompts test --name iter1` makes it again"
        ):
            read(place)


def test_a_sealed_file_in_the_place_of_another_is_refused() -> None:
    for model in ("iter1", "iter2"):
        write_sealed_json(Path("outputs/scores/test") / model / "summary.json")
    shutil.copy("outputs/scores/test/iter1/summary.json", "outputs/scores/test/iter2/summary.json")
    with pytest.raises(DamagedError, match=r"iter2/summary\.json must hold what was sealed for its place"):
        read_json(Path("outputs/scores/test/iter2/summary.json"))
    shutil.copytree("outputs/scores/test", "mine")  # a person's copy
    assert read_json(Path("mine/iter1/summary.json"))["mean"] == {"clip": 0.25}


def test_lists_are_written_for_folders_that_a_program_fills_later() -> None:
    make()
    (OUT / "later.txt").write_text("later")
    write_sums(OUT)
    check_folder(OUT)
