"""Images lie in tar shards that any tar reads, and each is read from its place without the others."""

import hashlib
import random
import tarfile
from pathlib import Path

import pytest

import spin.data.stored
from spin.data.shards import tar_rows
from spin.data.stored import ImageShards, stored_bytes
from spin.errors import DamagedError
from spin.runtime.sums import check_folder
from tests.data.images import jpeg

CONTENTS = {f"{index:03d}.png": random.Random(index).randbytes(200 + 97 * index) for index in range(30)}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spin.data.stored, "SHARD_BYTES", 8_000)


def store(root: Path) -> list[str]:
    root.mkdir(parents=True)
    with ImageShards(root) as shards:
        return [shards.add(name, content) for name, content in CONTENTS.items()]


def test_each_image_is_read_from_its_place_and_shards_are_as_large_as_said(tmp_path: Path) -> None:
    places = store(tmp_path / "set")
    shards = sorted((tmp_path / "set/images").glob("shard-*.tar"))
    assert len(shards) > 3
    assert all(8_000 < shard.stat().st_size < 8_000 + 3_500 + 10_240 for shard in shards[:-1])
    assert {place.split(":")[0] for place in places} == {f"images/{shard.name}" for shard in shards}
    found = [stored_bytes(tmp_path / "set", place) for place in places]
    assert found == list(CONTENTS.values())


def test_the_shards_are_tar_files_and_their_list_holds(tmp_path: Path) -> None:
    store(tmp_path / "outputs/data")
    folder = tmp_path / "outputs/data/images"
    check_folder(folder)
    unpacked = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as archive:
            unpacked |= {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert unpacked == CONTENTS
    read = [row["png"] for row in tar_rows(sorted(folder.glob("*.tar")))]
    assert read == list(CONTENTS.values()), "as WebDataset's readers take them"


def test_the_same_images_give_the_same_bytes_and_a_name_is_stored_once(tmp_path: Path) -> None:
    assert store(tmp_path / "one") == store(tmp_path / "two")
    one, two = (tmp_path / name / "images" for name in ("one", "two"))
    for file in one.iterdir():
        assert (
            hashlib.sha256(file.read_bytes()).digest()
            == hashlib.sha256((two / file.name).read_bytes()).digest()
        )
    (tmp_path / "three").mkdir()
    with ImageShards(tmp_path / "three") as shards:
        place = shards.add("a.png", b"first")
        assert shards.add("a.png", b"second") == place
    assert stored_bytes(tmp_path / "three", place) == b"first"


def test_a_changed_bit_in_a_shard_is_refused_whichever_image_is_read(tmp_path: Path) -> None:
    root = tmp_path / "outputs/data"
    places = store(root)
    shard = root / places[0].split(":")[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1  # of the padding
    shard.write_bytes(content)
    with pytest.raises(DamagedError, match=r"shard-00000\.tar must hold the bytes that spin\.sha256 lists"):
        stored_bytes(root, places[0])
    assert stored_bytes(root, places[-1]) == CONTENTS["029.png"], "of another shard"


def test_an_image_of_before_there_were_shards_is_a_file_by_itself(tmp_path: Path) -> None:
    (tmp_path / "images/ab").mkdir(parents=True)
    (tmp_path / "images/ab/cd.png").write_bytes(jpeg(1))
    assert stored_bytes(tmp_path, "images/ab/cd.png") == jpeg(1)
