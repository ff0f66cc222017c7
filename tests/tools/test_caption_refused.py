"""What `spin caption` refuses: models that do not load or bring code, folders and options that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save

from spin.cli import main
from spin.runtime.files import sha256_tree
from tests.data.images import jpeg
from tests.tools.captioners import SHORT


def changed(good: Path, bad: Path, files: dict[str, bytes | None]) -> None:
    """A copy of a model's folder with some files replaced, or left out."""
    bad.mkdir()
    for name, content in ({file.name: file.read_bytes() for file in good.iterdir()} | files).items():
        if content is not None:
            (bad / name).write_bytes(content)


def test_no_code_of_a_model_is_run(
    photos: Path, captioner: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Path(captioner("blip"))
    config = json.loads((good / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"}
    own = b"from pathlib import Path\nPath('ran').touch()\n"
    for kind, code in (("own", 2), ("blip", 0)):
        config["model_type"] = kind
        changed(good, tmp_path / kind, {"config.json": json.dumps(config).encode(), "own.py": own})
        assert main(["caption", "--images", "photos", "--model", kind, *SHORT]) == code
    assert "is of the type own; choose another, or let a server load it" in capsys.readouterr().err
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        (("model.safetensors",), "has none; choose one that has"),
        (("config.json",), "has no config.json"),
        (("processor_config.json", "tokenizer.json", "tokenizer_config.json"), "does not load ("),
        ((), "does not load ("),
        (('{"model_type": ["blip"]}',), "has no config.json that names a model_type"),
        (('{"model_type": {}}',), "has no config.json that names a model_type"),
        (("[" * 100_000,), "has no config.json that names a model_type"),
        (("one weight",), "lacks 1 of its weights, such as"),
    ],
)
def test_a_model_that_cannot_load_is_one_sentence(
    without: tuple[str, ...],
    expected: str,
    photos: Path,
    captioner: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = Path(captioner("blip"))
    files: dict[str, bytes | None] = {**dict.fromkeys(without), "pytorch_model.bin": b"a pickle"}
    if without and without[0][0] in "{[":
        files = {"config.json": without[0].encode()}
    if not without:
        files["model.safetensors"] = b"torn"
    if without == ("one weight",):
        files["model.safetensors"] = save(dict(list(load_file(good / "model.safetensors").items())[1:]))
    changed(good, tmp_path / "bad", files)
    before = sha256_tree(photos)
    assert main(["caption", "--images", "photos", "--model", "bad"]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert sha256_tree(photos) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--images", "nowhere"], "there is no folder nowhere"),
        (["--images", "profiles"], "profiles holds none"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--model", "./nowhere"], "./nowhere has no config.json"),
        (["--device", "gpu9"], "--device must be one that this machine has, got gpu9"),
        (["--max-tokens", "129"], "--max-tokens must be at most 128 with this model, got 129"),
        (["--prompt", "what is it?"], "--prompt must be one of <CAPTION>, "),
        (["--endpoint", "localhost:8000/v1"], "--endpoint must be a server's address"),
        (["--endpoint", "http://me:secret@localhost/v1"], "got one with a password or a query"),
        (["--endpoint", "http://localhost:8000/v1", "--device", "cpu"], "--device must be left out"),
        (["--images", "lines"], "but it has metadata.jsonl"),
        (["--images", "table", "--write", "txt"], "--write must be csv where the folder has a metadata.csv"),
        (
            ["--images", "torn"],
            "must be a UTF-8 table with the column file_name, but it has the columns a, b",
        ),
        (["--images", "twins"], "but a.jpg and a.png would share one"),
    ],
)
def test_what_cannot_be_captioned_is_one_sentence_and_leaves_the_folder_alone(
    arguments: list[str],
    expected: str,
    photos: Path,
    captioner: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("lines", "table", "torn", "twins"):
        Path(name).mkdir()
        (Path(name) / "a.jpg").write_bytes(jpeg(0))
    (Path("lines") / "metadata.jsonl").write_text("{}")
    (Path("table") / "metadata.csv").write_text("file_name,text\na.jpg,\n")
    (Path("torn") / "metadata.csv").write_text("a,b\n1,2\n")
    (Path("twins") / "a.png").write_bytes(jpeg(1))
    before = sha256_tree(Path())
    assert main(["caption", "--images", "photos", "--model", captioner("florence2"), *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert sha256_tree(Path()) == before
