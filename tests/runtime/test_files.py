"""Nothing is ever half-written, and what a killed run left is swept away."""

from collections.abc import Callable
from pathlib import Path

import pytest

from spin.cli import main
from spin.errors import FileError
from spin.runtime.files import read_json, read_parquet, replacing_dir, replacing_file, sha256_tree, write_json


def test_a_failed_block_leaves_the_old_folder_whole_and_no_trace(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with replacing_dir(out) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(IsADirectoryError), replacing_dir(out) as folder:
        folder.write_text("a folder is no file")
    assert (out / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_new_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("a", "b"):
        with replacing_dir(out) as folder:
            (folder / name).write_text(name)
    assert [path.name for path in out.iterdir()] == ["b"]


def test_what_a_killed_run_left_behind_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".out.tmp.killed").mkdir()
    with replacing_dir(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(NotADirectoryError), replacing_file(path) as temporary:
        (temporary / "a file is no folder").write_text("")
    assert path.read_text() == '{\n  "a": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))


def test_a_tree_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    digests = set()
    for name, text in (("a", "1"), ("a", "2"), ("b", "2")):
        folder = tmp_path / f"{name}{text}"
        folder.mkdir()
        (folder / name).write_text(text)
        digests.add(sha256_tree(folder))
    assert len(digests) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("read", [read_json, read_parquet])
def test_a_file_that_does_not_read_is_one_sentence(
    tmp_path: Path, read: Callable[[Path], object], content: bytes
) -> None:
    torn = tmp_path / "model.json"
    for present in (False, True):
        if present:
            torn.write_bytes(content)
        with pytest.raises(
            FileError, match=r"model\.json must be a whole .* make it again with its stage\.$"
        ):
            read(torn)


def test_a_machine_that_fails_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIN_TRACKING", "off")
    (tmp_path / "outputs").write_text("a file where a folder has to be")
    profile = Path(__file__).parents[2] / "profiles" / "toy.yaml"
    assert main(["base", "--params", str(profile)]) == 1
    said = capsys.readouterr().err
    assert "run the same command again" in said
    assert "Traceback" not in said
